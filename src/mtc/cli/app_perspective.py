"""The commands around remote perspectives and their arguments: `mtc perspective`."""

from typing import Annotated

import typer

perspective_app = typer.Typer(
    help="Run a remote perspective: it looks at applicants for CAs, from where it stands.", no_args_is_help=True
)
_JSON = typer.Option("--json", help="Print JSON for scripts.")
_FOLDER = typer.Argument(metavar="DIR", help="The perspective's folder.")


@perspective_app.command("init")
def perspective_init(
    folder: Annotated[str, _FOLDER],
    *,
    name: Annotated[str, typer.Option(metavar="NAME", help="Its name in evidence, for example eu-1.")],
    region: Annotated[
        str, typer.Option(metavar="REGION", help="Where it stands: afrinic, apnic, arin, lacnic or ripe.")
    ],
    listen: Annotated[str, typer.Option(metavar="ADDR:PORT", help="HTTPS address.")] = "0.0.0.0:8443",
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Make a perspective: a key and a commented perspective.toml. One that is there stays."""
    from mtc.cli.perspective import run_init  # noqa: PLC0415 - a command loads only what it needs

    run_init(folder, name=name, region=region, listen=listen, as_json=json)


@perspective_app.command("serve")
def perspective_serve(
    folder: Annotated[str, _FOLDER],
    *,
    listen: Annotated[str | None, typer.Option(metavar="ADDR:PORT", help="In place of perspective.toml's.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write the log as JSON lines also on a terminal.")] = False,
) -> None:
    """Run the perspective until SIGTERM or ctrl-C."""
    from mtc.cli.perspective import run_serve  # noqa: PLC0415 - a command loads only what it needs

    run_serve(folder, listen=listen, as_json=json)


@perspective_app.command("allow")
def perspective_allow(
    folder: Annotated[str, _FOLDER],
    certificate: Annotated[
        str, typer.Argument(metavar="CERT.pem|-", help="The CA's perspective-client.pem; - is standard input.")
    ],
    *,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Let a CA ask, by its client certificate. A running perspective sees it within seconds."""
    from mtc.cli.perspective import run_allow  # noqa: PLC0415 - a command loads only what it needs

    run_allow(folder, certificate, as_json=json)


@perspective_app.command("show")
def perspective_show(folder: Annotated[str, _FOLDER], *, json: Annotated[bool, _JSON] = False) -> None:
    """Show who the perspective is, who may ask it, and the lines for a CA's acme.toml."""
    from mtc.cli.perspective import run_show  # noqa: PLC0415 - a command loads only what it needs

    run_show(folder, as_json=json)
