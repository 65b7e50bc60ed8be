"""The arguments of `mtc hammer`."""

from typing import Annotated

import typer

DEFAULT_SECONDS = 10.0
_COSIGNER = "Witness or mirror"
_ISSUING = "Issuing"
_MAKING = "Making a throw-away log"


def hammer(  # noqa: PLR0913 - what can be loaded, and how
    target: Annotated[
        str | None, typer.Argument(metavar="URL|DIR", help="Prefix URL of the target; with --issue also a CA's folder.")
    ] = None,
    *,
    vkey: Annotated[
        list[str] | None, typer.Option(metavar="VKEY", help="Verifier key that must have signed; may be repeated.")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="The log; with --log-key it may be repeated.")
    ] = None,
    connections: Annotated[int, typer.Option(metavar="N", help="Requests under way at once.")] = 8,
    seconds: Annotated[
        float | None, typer.Option(min=0.0, help="How long; 10 unless --requests is given, 0 for until ctrl-C.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Stop after so many requests.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests a second; latency then counts from when each was due.")
    ] = None,
    max_errors: Annotated[int | None, typer.Option(min=1, help="Stop after so many wrong or missing answers.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all choices by chance; drawn, and reported, without.")] = None,
    minimum_index: Annotated[int, typer.Option(min=0, help="The target may refuse entries below it.")] = 0,
    stale_ok: Annotated[bool, typer.Option("--stale-ok", help="Checkpoints may be old, as behind a cache.")] = False,
    witness: Annotated[bool, typer.Option("--witness", help="Load a witness.", rich_help_panel=_COSIGNER)] = False,
    mirror: Annotated[bool, typer.Option("--mirror", help="Load a mirror.", rich_help_panel=_COSIGNER)] = False,
    log_key: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Private key of a throw-away log.", rich_help_panel=_COSIGNER),
    ] = None,
    monitoring: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where the target serves; a mirror's is URL without.", rich_help_panel=_COSIGNER
        ),
    ] = None,
    entry_bytes: Annotated[
        int | None, typer.Option(min=16, max=65535, help="Size of an entry.", rich_help_panel=_COSIGNER)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Entries between two checkpoints of a mirror.", rich_help_panel=_COSIGNER)
    ] = None,
    wrong: Annotated[
        float, typer.Option(help="Share of requests that must be refused.", rich_help_panel=_COSIGNER)
    ] = 0.1,
    no_subtrees: Annotated[
        bool, typer.Option("--no-subtrees", help="The target has no sign-subtree.", rich_help_panel=_COSIGNER)
    ] = False,
    issue: Annotated[
        bool, typer.Option("--issue", help="Have certificates issued by a CA.", rich_help_panel=_ISSUING)
    ] = False,
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="File with the token for a CA's URL (mtc ca token).", rich_help_panel=_ISSUING
        ),
    ] = None,
    ca: Annotated[
        str | None,
        typer.Option(
            metavar="CA.pem", help="CA certificate; to read its log, in place of --vkey.", rich_help_panel=_ISSUING
        ),
    ] = None,
    domain: Annotated[
        str, typer.Option(metavar="NAME", help="What names end in.", rich_help_panel=_ISSUING)
    ] = "example.com",
    make_log: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Make a key and origins for a target to know.", rich_help_panel=_MAKING),
    ] = None,
    logs: Annotated[int, typer.Option(min=1, help="How many origins.", rich_help_panel=_MAKING)] = 4,
    log_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What origins begin with.", rich_help_panel=_MAKING)
    ] = None,
    log_algorithm: Annotated[
        str, typer.Option(metavar="NAME", help="ml-dsa-44 or ed25519.", rich_help_panel=_MAKING)
    ] = "ml-dsa-44",
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON for scripts.")] = False,
) -> None:
    """Load a log, a witness, a mirror or a CA, and check every answer.

    Reads a tiled log or a mirror's copy of one, unless --witness, --mirror or --issue says otherwise. Exit code 0 when
    every answer was right, 1 when one was wrong or missing, 2 when the run could not begin.
    """
    from mtc.cli.hammer.command import (  # noqa: PLC0415 - a command loads only what it needs
        HammerOptions,
        make_throwaway_logs,
        mode_of,
        run_hammer,
    )
    from mtc.cli.hammer.load import Bounds  # noqa: PLC0415

    if make_log is not None:
        make_throwaway_logs(make_log, logs, entry_bytes, log_name, log_algorithm, as_json=json)
        return
    options = HammerOptions(
        target=target or "",
        mode=mode_of(target, is_witness=witness, is_mirror=mirror, is_issuing=issue),
        vkeys=tuple(vkey or ()),
        origins=tuple(origin or ()),
        monitoring=monitoring,
        log_key=log_key,
        entry_bytes=entry_bytes,
        batch=batch,
        wrong=wrong,
        with_subtrees=not no_subtrees,
        is_stale_ok=stale_ok,
        minimum_index=minimum_index,
        ca=ca,
        token_file=token_file,
        domain=domain,
        connections=connections,
        bounds=Bounds(_seconds(seconds, requests), requests, max_errors, rate),
        seed=seed,
        as_json=json,
    )
    raise typer.Exit(run_hammer(options))


def _seconds(seconds: float | None, requests: int | None) -> float | None:
    """Return how long to run, None for no end by time."""
    if seconds is None:
        return None if requests is not None else DEFAULT_SECONDS
    return seconds or None
