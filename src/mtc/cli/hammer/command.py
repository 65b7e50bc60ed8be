"""`mtc hammer`: from the command's options to a run and its report."""

import asyncio
import contextlib
import logging
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mtc import __version__
from mtc.ca.client import is_served
from mtc.ca.config import read_config
from mtc.cert import CACertificate
from mtc.cli.ca import read_token
from mtc.cli.hammer.issuing import IssueLoad, IssueLoadOptions
from mtc.cli.hammer.live import LiveView, print_report
from mtc.cli.hammer.load import Bounds, End, Load, Scenario, run_load
from mtc.cli.hammer.mirror import MirrorLoad, MirrorOptions
from mtc.cli.hammer.reading import LogReading, ReadOptions
from mtc.cli.hammer.throwaway import DEFAULT_ENTRY_BYTES, MakeOptions, make_logs, read_logs
from mtc.cli.hammer.witness import CosignerOptions, WitnessLoad
from mtc.cli.output import ExitCode, named, read_input
from mtc.cli.verify import find_certificate
from mtc.errors import Error, Reason, UsageError
from mtc.note import SignatureType, VerifierKey
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.logs import configure_logs
from mtc.web.server import loop_factory

MAX_CONNECTIONS = 1000
_ANSWER_S = 30.0
_ISSUE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HammerOptions:
    """What the command line asks for. target: a URL, or a CA's folder to issue over its socket.

    mode: log, witness, mirror or issue. bounds: when the run ends. seed: of all choices; the same one makes the same
    choices, as far as the answers come in the same order.
    """

    target: str
    mode: str
    vkeys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    monitoring: str | None = None
    log_key: str | None = None
    entry_bytes: int | None = None
    batch: int | None = None
    wrong: float = 0.1
    with_subtrees: bool = True
    is_stale_ok: bool = False
    minimum_index: int = 0
    ca: str | None = None
    token_file: str | None = None
    domain: str = "example.com"
    connections: int = 8
    bounds: Bounds = field(default_factory=Bounds)
    seed: int | None = None
    as_json: bool = False


def run_hammer(options: HammerOptions) -> int:
    """Load the target, show how it goes, print the report. Returns 0 when every answer was right, 1 when not."""
    configure_logs(sys.stderr, level=logging.ERROR)
    if not 1 <= options.connections <= MAX_CONNECTIONS:
        raise UsageError(Reason.USAGE, f"--connections is from 1 to {MAX_CONNECTIONS}")
    if not 0 <= options.wrong <= 1:
        raise UsageError(Reason.USAGE, "--wrong is a share from 0 to 1")
    if options.mode == "log" and len(options.origins) > 1:
        raise UsageError(Reason.USAGE, "one log is read at a time; give --origin once")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(hammer_target(options))


def mode_of(target: str | None, *, is_witness: bool, is_mirror: bool, is_issuing: bool) -> str:
    """Return the mode that the switches choose. Raises UsageError when they do not go together."""
    chosen = [name for name, is_on in (("witness", is_witness), ("mirror", is_mirror), ("issue", is_issuing)) if is_on]
    if target is None:
        raise UsageError(Reason.USAGE, "say what to load: mtc hammer URL; or --make-log DIR to make a log for it")
    if len(chosen) > 1:
        raise UsageError(Reason.USAGE, f"--{chosen[0]} and --{chosen[1]} do not go together")
    return chosen[0] if chosen else "log"


def make_throwaway_logs(  # noqa: PLR0913 - what logs are made with
    folder: str, logs: int, entry_bytes: int | None, name: str | None, algorithm: str, *, as_json: bool
) -> None:
    """Make throw-away logs in a folder, and print what a target must be told."""
    size = DEFAULT_ENTRY_BYTES if entry_bytes is None else entry_bytes
    make_logs(MakeOptions(folder, logs, size, name, algorithm, as_json))


async def hammer_target(options: HammerOptions) -> int:
    """Run; see `run_hammer`."""
    deadline = _ISSUE_S if options.mode == "issue" else _ANSWER_S
    limits = ClientLimits(
        attempts=1, attempt_s=deadline, deadline_s=deadline, redirects=0, connections=options.connections
    )
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    socket = _socket_of(options)
    async with HTTPClient(limits, socket_path=socket, user_agent=f"mtc-hammer/{__version__}") as client:
        load = Load(client, options.bounds)
        scenario = _make_scenario(options, load, random.Random(seed))  # noqa: S311 - choices, no secrets
        await scenario.prepare()
        load.begin()
        view = LiveView(load, f"{options.mode} at {options.target}", as_json=options.as_json)
        showing = asyncio.create_task(view.run())
        try:
            with _ending_with_a_report(load):
                await run_load(load, scenario, options.connections)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
        seconds = max(load.seconds, 1e-6)
        document = {
            "target": options.target,
            "mode": options.mode,
            "seed": seed,
            "connections": options.connections,
            "ended": str(load.end or End.TIME),
            "ok": load.figures.is_clean,
            "client_cpu": round(view.client_cpu, 3),
            **load.figures.to_json(seconds),
            "facts": dict(scenario.facts()),
        }
        print_report(document, load.figures, seconds, as_json=options.as_json)
        return ExitCode.DONE if load.figures.is_clean else ExitCode.NO


def _make_scenario(options: HammerOptions, load: Load, chance: random.Random) -> Scenario:
    """Return the scenario of a mode. Raises UsageError when an option is missing."""
    if options.mode == "issue":
        return _make_issue_load(options, load, chance)
    keys = tuple(VerifierKey.parse(text) for text in options.vkeys)
    if options.mode == "log" and options.ca is not None:
        keys += (_key_of_ca(options.ca),)
    if not keys:
        raise UsageError(
            Reason.USAGE, "--vkey (for a CA's log also --ca) is needed: answers are checked by a key that must sign"
        )
    if options.mode == "log":
        origin = options.origins[0] if options.origins else None
        return LogReading(
            load, ReadOptions(options.target, keys, origin, options.minimum_index, options.is_stale_ok), chance
        )
    if options.log_key is None:
        raise UsageError(
            Reason.USAGE,
            "--log-key is needed: the private key of a throw-away log that the target knows; --make-log DIR makes one",
        )
    logs = read_logs(options.log_key, list(options.origins), options.entry_bytes)
    cosigner = CosignerOptions(options.target, options.monitoring, keys, options.wrong, options.with_subtrees)
    if options.mode == "witness":
        return WitnessLoad(load, cosigner, logs, chance)
    mirror = MirrorOptions(cosigner) if options.batch is None else MirrorOptions(cosigner, options.batch)
    return MirrorLoad(load, mirror, logs, chance)


def _key_of_ca(file: str) -> VerifierKey:
    """Return the key under which a CA signs its checkpoints, from its certificate."""
    try:
        ca = CACertificate.parse(find_certificate(read_input(file)))
        return VerifierKey.from_spki(ca.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, ca.public_key.public_key)
    except Error as error:
        raise named(error, file) from None


def _make_issue_load(options: HammerOptions, load: Load, chance: random.Random) -> IssueLoad:
    """Return the scenario that issues."""
    ca = None if options.ca is None else read_input(options.ca)
    if "://" in options.target:
        return IssueLoad(
            load, IssueLoadOptions(options.target, read_token(options.token_file), ca, options.domain), chance
        )
    ca = ca or read_input(str(Path(options.target) / "ca.pem"))
    return IssueLoad(load, IssueLoadOptions("http://ca", None, ca, options.domain), chance)


def _socket_of(options: HammerOptions) -> Path | None:
    """Return the socket of a CA's folder, None for a URL."""
    if "://" in options.target:
        return None
    if options.mode != "issue":
        raise UsageError(Reason.USAGE, f"{options.target!r} is no URL")
    folder = Path(options.target)
    socket = folder / read_config(folder).socket
    if not is_served(socket):
        raise UsageError(Reason.UNREADABLE, f"nobody serves {folder}; start it with mtc ca serve")
    return socket


@contextlib.contextmanager
def _ending_with_a_report(load: Load) -> Iterator[None]:
    """Let the first ctrl-C or SIGTERM end the run with its report; the second one is as usual."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        load.stop(End.INTERRUPTED)
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
