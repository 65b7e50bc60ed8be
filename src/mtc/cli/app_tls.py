"""The commands that speak TLS themselves, and their arguments: `mtc get`, `handshake`, `serve-tls`, `doctor`."""

from typing import Annotated

import typer

_Trust = Annotated[str | None, typer.Option(metavar="TRUST.json", help="Whom to trust: a trust store.")]
_Roots = Annotated[str | None, typer.Option(metavar="FILE", help="Further roots for classical chains.")]
_Address = Annotated[str | None, typer.Option(metavar="ADDR:PORT", help="Connect there, whatever the URL says.")]
_MTCOnly = Annotated[bool, typer.Option("--mtc-only", help="Refuse classical chains.")]


def get(  # noqa: PLR0913 - what a page is asked for with
    url: Annotated[str, typer.Argument(metavar="URL", help="An https URL.")],
    *,
    trust: _Trust = None,
    ca_file: _Roots = None,
    connect: _Address = None,
    mtc_only: _MTCOnly = False,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Where to write the page.")] = None,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="Longest that all of it may take.")] = "60s",
    json: Annotated[bool, typer.Option("--json", help="Print what was asked, got and verified, not the page.")] = False,
) -> None:
    """Fetch a page over TLS, say which certificate came and why it was believed.

    Exit code 1 when the server says that it went wrong, 2 when there was no trusted connection.
    """
    from mtc.cli.tls import GetOptions, run_get  # noqa: PLC0415 - a command loads only what it needs

    options = GetOptions(
        url=url,
        trust=trust,
        ca_file=ca_file,
        connect=connect,
        is_mtc_only=mtc_only,
        out=out,
        timeout=timeout,
        as_json=json,
    )
    raise typer.Exit(run_get(options))


def handshake(  # noqa: PLR0913 - how hands are shaken
    url: Annotated[str, typer.Argument(metavar="URL", help="An https URL, or a host.")],
    *,
    trust: _Trust = None,
    ca_file: _Roots = None,
    connect: _Address = None,
    mtc_only: _MTCOnly = False,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="Longest that all of it may take.")] = "20s",
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Shake hands: what was offered, chosen, sent and verified, step by step and in bytes.

    Where the certificate is refused and the server lists an ID that is trusted, there is one more attempt that asks
    for it. Exit code 1 when the certificate is refused, 2 when there was no handshake.
    """
    from mtc.cli.handshake import HandshakeOptions, run_handshake  # noqa: PLC0415 - a command loads only what it needs

    options = HandshakeOptions(
        url=url,
        trust=trust,
        ca_file=ca_file,
        connect=connect,
        is_mtc_only=mtc_only,
        timeout=timeout,
        as_json=json,
    )
    raise typer.Exit(run_handshake(options))


def serve_tls(
    root: Annotated[str, typer.Argument(metavar="ROOT", help="Folder with the files to serve.")],
    certificates: Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders of mtc request: OUT/NAME.")],
    *,
    listen: Annotated[str, typer.Option(metavar="ADDR:PORT", help="Where.")] = "127.0.0.1:8443",
    json: Annotated[bool, typer.Option("--json", help="Write the log as JSON lines also on a terminal.")] = False,
) -> None:
    """Serve a folder over TLS with the best certificate for every client, and log what each asked for and got.

    Certificates that were renewed are taken over by themselves. Until SIGTERM or ctrl-C.
    """
    from mtc.cli.serve_tls import ServeTLSOptions, run_serve_tls  # noqa: PLC0415 - a command loads only what it needs

    run_serve_tls(ServeTLSOptions(root=root, folders=tuple(certificates), listen=listen, as_json=json))


def doctor(*, json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False) -> None:
    """Say what TLS this Python can do with Merkle Tree certificates, and why not. Exit code 1 when it can do none."""
    from mtc.cli.tls import run_doctor  # noqa: PLC0415 - a command loads only what it needs

    raise typer.Exit(run_doctor(as_json=json))
