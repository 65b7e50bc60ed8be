"""The commands that calculate what nobody can try out, and their arguments: `mtc simulate`."""

from typing import Annotated

import typer

simulate_app = typer.Typer(help="Calculate how a deployment behaves before there is one.", no_args_is_help=True)


@simulate_app.callback()
def _simulate() -> None:
    """Calculate how a deployment behaves before there is one."""


@simulate_app.command("landmarks")
def simulate_landmarks(  # noqa: PLR0913 - a scenario, what to change in it, and where the results go
    scenario: Annotated[
        str | None, typer.Argument(metavar="[SCENARIO.toml]", help="The scenario; one like the Web without.")
    ] = None,
    *,
    clients: Annotated[float | None, typer.Option(min=0, max=1e12, help="So many clients, such as 1e9.")] = None,
    cas: Annotated[int | None, typer.Option(min=1, max=100_000, help="So many CAs.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="Length of the run.")] = None,
    outage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT@START+LENGTH",
            help="Something fails: service@10d+24h, publisher@5d+6h, ca@20d+3d or ca/GROUP@20d+3d; may be repeated.",
        ),
    ] = None,
    landmark_bytes: Annotated[
        int | None, typer.Option(min=0, max=10**9, help="Bytes of a landmark in updates: two hashes, or a proof too.")
    ] = None,
    proof_bytes: Annotated[
        int | None,
        typer.Option(
            min=0, max=10**9, help="Bytes of each CA with news in an update: cosignatures, if clients verify."
        ),
    ] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="Write the time series as CSV.")] = None,
    plot: Annotated[str | None, typer.Option(metavar="FILE.svg", help="Write a picture of the time series.")] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print the scenario itself as TOML, to change it, and stop.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Calculate how landmarks reach relying parties: bytes, staleness, and which certificate handshakes get.

    A month of a billion clients and hundreds of CAs takes seconds: clients are calculated by class, CAs by group.
    """
    from mtc.cli.simulate import SimulateOptions, run_simulate  # noqa: PLC0415 - a command loads only what it needs

    run_simulate(
        SimulateOptions(
            scenario=scenario,
            clients=None if clients is None else int(clients),
            cas=cas,
            days=days,
            outages=tuple(outage or ()),
            landmark_bytes=landmark_bytes,
            proof_bytes=proof_bytes,
            csv=csv,
            plot=plot,
            example=example,
            as_json=json,
        )
    )
