"""The demonstrations and their arguments: `mtc demo` and what belongs to it."""

from typing import Annotated

import typer

demo_app = typer.Typer(help="See it work on this machine.")

JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
_DEMO_OUT = typer.Option(metavar="FOLDER", help="Where the certificates and the trust store are written.")


@demo_app.callback(invoke_without_command=True)
def demo(  # noqa: PLR0913 - what there is to choose
    context: typer.Context,
    out: Annotated[str, _DEMO_OUT] = "demo-out",
    entries: Annotated[int, typer.Option(min=8, max=100_000, help="Entries in the log.")] = 1000,
    *,
    alone: Annotated[bool, typer.Option("--alone", help="Only the first half, without processes.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everybody running until ctrl-C.")] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65500, metavar="N", help="Listen on N and the ports after it.")
    ] = None,
    json: JSONOption = False,
) -> None:
    """From a growing log to TLS: certificates, cosigners, an ACME order, landmark updates, handshakes of each kind.

    CA, witness, two mirrors, update service and TLS site run as processes of their own, and end with the command.
    """
    if context.invoked_subcommand is not None:
        return
    from mtc.cli.demo import run_demo  # noqa: PLC0415 - a command loads only what it needs

    run_demo(out, entries, with_cosigners=not alone, is_kept=keep, as_json=json, port=port)


@demo_app.command("rollback")
def demo_rollback(out: Annotated[str, _DEMO_OUT] = "demo-out") -> None:
    """Cut the power in the middle of a round, restore yesterday's copy: the CA refuses, and names who remembers."""
    from mtc.cli.demo_cosign import run_rollback  # noqa: PLC0415 - a command loads only what it needs

    run_rollback(out)


@demo_app.command("outage")
def demo_outage(out: Annotated[str, _DEMO_OUT] = "demo-out", *, json: JSONOption = False) -> None:
    """Kill CA, mirrors and update service for a simulated day: everybody still connects, and says how stale it is."""
    from mtc.cli.demo_outage import run_outage  # noqa: PLC0415 - a command loads only what it needs

    run_outage(out, as_json=json)


@demo_app.command("browser")
def demo_browser(
    out: Annotated[str, _DEMO_OUT] = "demo-out",
    draft: Annotated[
        str, typer.Option(metavar="NAME", help="plants-05 or plants-04: what browsers speak.")
    ] = "plants-05",
) -> None:
    """Let Chromium load pages over both forms of certificate, and refuse three that are broken.

    Needs Chromium (Debian: apt install chromium); its profile is a new one, below the folder.
    """
    from mtc.cli.demo_browser import run_browser  # noqa: PLC0415 - a command loads only what it needs

    run_browser(out, draft)
