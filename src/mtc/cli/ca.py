"""`mtc ca`: make a CA, run it, and do what operators do."""

import asyncio
import getpass
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast

from mtc.ca.client import CAClient, is_served
from mtc.ca.config import CAConfig, check_prefix_url, parse_address, parse_duration, read_config
from mtc.ca.cosigning.adding import add_cosigner
from mtc.ca.cosigning.config import CosignerTable, describe_cosigning
from mtc.ca.folder import CAFolder, create_folder
from mtc.ca.landmarks import MAX_LANDMARKS
from mtc.ca.serve import describe_ca, run_ca
from mtc.ca.service import Rollover, RunningCA, open_ca
from mtc.cli.output import ExitCode, console, read_input, shown, table
from mtc.cosign.config import Role, check_url
from mtc.errors import Reason, UsageError
from mtc.ids import TrustAnchorID, parse_revision
from mtc.note import VerifierKey
from mtc.profile import parse_profile
from mtc.signer.service import read_passphrase
from mtc.web.logs import configure_logs
from mtc.web.server import loop_factory

Answer = dict[str, object]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class InitOptions:
    """What `mtc ca init` is asked for. overrides: durations as text by key of ca.toml; None leaves the profile's."""

    folder: str
    ca_id: str
    profile: str
    draft: str
    prefix_url: str | None
    has_counter: bool
    listen: str
    overrides: Mapping[str, str | None]
    passphrase_file: str | None
    as_json: bool


def run_init(options: InitOptions) -> None:
    """Make a CA's folder and its log 1, or see that it is there."""
    profile = parse_profile(options.profile)
    overrides: dict[str, timedelta | int] = {
        name: parse_duration(text, f"--{name.replace('_', '-')}")
        for name, text in options.overrides.items()
        if text is not None
    }
    max_lifetime = overrides.get("max_lifetime")
    if isinstance(max_lifetime, timedelta) and max_lifetime < profile.default_lifetime:
        overrides["default_lifetime"] = max_lifetime
    interval = overrides.get("landmark_interval")
    if isinstance(interval, timedelta) and not profile.is_public:
        # Who wants landmarks more often wants more of them; only the Web's profile has a cap of somebody else's.
        overrides["max_active_landmarks"] = min(profile.landmark_window // interval + 1, MAX_LANDMARKS)
    config = CAConfig(
        ca_id=TrustAnchorID.parse(options.ca_id),
        profile=replace(profile, **overrides),  # type: ignore[arg-type]  # the keys are fields of the right type
        revision=parse_revision(options.draft),
        prefix_url=None if options.prefix_url is None else check_prefix_url(options.prefix_url),
        has_counter=options.has_counter,
        listen=parse_address(options.listen),
        overrides=overrides,
        passphrase_file=None if options.passphrase_file is None else str(Path(options.passphrase_file).absolute()),
    )
    passphrase = read_passphrase(os.environ, options.passphrase_file)
    path = Path(options.folder)
    folder, is_new = create_folder(path, config, passphrase, datetime.now(UTC))
    if is_new or not (path / "public" / "1" / "checkpoint").exists():
        _run(_begin_log(path, options.passphrase_file))
    _print_init(folder, options, is_new=is_new)


async def _begin_log(path: Path, passphrase_file: str | None) -> None:
    """Open the CA once, which makes and signs its empty log."""
    async with open_ca(path, passphrase_file=passphrase_file) as ca:
        await ca.publish_lists()


def _print_init(folder: CAFolder, options: InitOptions, *, is_new: bool) -> None:
    """Say what there is now, and what to do next."""
    config = folder.config
    if options.as_json:
        facts = {"folder": str(folder.path), "id": str(config.ca_id), "draft": config.revision.name, "new": is_new}
        sys.stdout.write(json.dumps(facts | {"profile": config.profile.name, "log": 1}) + "\n")
        return
    out = console()
    name = shown(options.folder)
    if not is_new:
        out.print(f"CA [bold]{config.ca_id}[/] is in {name} already; nothing was changed.")
        return
    out.print(f"CA [bold]{config.ca_id}[/] · {config.revision} · profile {config.profile.name} · in {name}\n")
    rows = table("file", "what it is")
    rows.add_row("ca.toml", "configuration, commented")
    rows.add_row("ca.pem", "the CA certificate, for relying parties; unsigned (RFC 9925)")
    rows.add_row(
        "signer/key.pem", "the key" + (", encrypted" if config.passphrase_file else "") + "; back it up offline"
    )
    rows.add_row("public/", "what is served: log 1, still empty")
    out.print(rows)
    out.print("\nNext:\n")
    out.print(f"  mtc ca serve {name}", style="cyan")
    out.print(f"  mtc ca issue {name} --public-key KEY.pem --dns www.example.com --out CERT.pem", style="cyan")


def run_serve(folder: str, *, listen: str | None, passphrase_file: str | None, as_json: bool) -> None:
    """Run a CA until it is told to stop."""
    from mtc.acme.serve import acme_beside  # noqa: PLC0415 - only a CA that is served needs it

    configure_logs(sys.stderr, is_json=True if as_json else None)
    _run(run_ca(Path(folder), listen=listen, passphrase_file=passphrase_file, beside=[acme_beside]))


@dataclass(frozen=True, slots=True)
class CosignerOptions:
    """What `mtc ca add-cosigner` is asked for. vkey: the key's text, or the file that holds it."""

    folder: str
    name: str
    role: str
    vkey: str
    url: str
    monitoring_url: str | None
    deadline: str | None
    as_json: bool


def run_add_cosigner(options: CosignerOptions) -> None:
    """Add a cosigner to the configuration, or see that it is there."""
    if options.role not in list(Role):
        raise UsageError(Reason.USAGE, f"--role: {options.role!r} is neither witness nor mirror")
    text = options.vkey if "+" in options.vkey else read_input(options.vkey).decode("utf-8", "replace")
    monitoring = options.monitoring_url
    table_ = CosignerTable(
        name=options.name,
        role=Role(options.role),
        key=VerifierKey.parse(text.strip()),
        url=check_url(options.url, "--url"),
        monitoring_url=None if monitoring is None else check_url(monitoring, "--monitoring-url"),
        deadline=None if options.deadline is None else parse_duration(options.deadline, "--deadline"),
    )
    folder = Path(options.folder)
    is_new = add_cosigner(folder, table_)
    config = read_config(folder)
    is_running = is_served(folder / config.socket)
    if options.as_json:
        facts = {"name": options.name, "new": is_new, "restart": is_new and is_running}
        sys.stdout.write(json.dumps(facts | dict(describe_cosigning(config.cosigning))) + "\n")
        return
    out, name = console(), shown(options.name)
    if not is_new:
        out.print(f"{options.role} {name} is there already; nothing was changed.")
        return
    out.print(f"{options.role} {name} added; a round now needs {shown(str(config.cosigning.quorum))} beside the CA")
    out.print("[dim]another rule: required, at_least and of under \\[quorum] in ca.toml[/]")
    if is_running:
        out.print(f"[yellow]restart[/] mtc ca serve {shown(options.folder)}: it goes by what ca.toml said before")


class Operator:
    """A CA that is asked for what operators do: over its API, or in this process when nobody serves its folder."""

    def __init__(self, client: CAClient | None, ca: RunningCA | None) -> None:
        """Take one of the two."""
        self._client = client
        self._ca = ca

    async def ask(
        self,
        method: str,
        path: str,
        document: Mapping[str, object] | None,
        local: Callable[[RunningCA], Awaitable[Answer]],
    ) -> Answer:
        """Send a request, or do the same here."""
        if self._client is not None:
            return (await self._client.request(method, path, document))[1]
        assert self._ca is not None
        return await local(self._ca)


@asynccontextmanager
async def reach(target: str, token_file: str | None, rollover: Rollover | None = None) -> AsyncIterator[Operator]:
    """Reach a CA: over HTTP for a URL, over the socket of a folder that is served, in this process otherwise."""
    if "://" in target:
        async with CAClient.connect(target, read_token(token_file)) as client:
            yield Operator(client, None)
        return
    folder = Path(target)
    socket = folder / read_config(folder).socket
    if is_served(socket):
        async with CAClient.connect(str(socket)) as client:
            yield Operator(client, None)
        return
    async with open_ca(folder, rollover=rollover) as ca:
        yield Operator(None, ca)


def read_token(path: str | None) -> str | None:
    """Return the token in a file, its first line. Raises UsageError."""
    if path is None:
        return None
    token = read_input(path).decode("utf-8", "replace").split("\n")[0].strip()
    if not token:
        raise UsageError(Reason.UNREADABLE, f"{path} holds no token in its first line")
    return token


def run_revoke(  # noqa: PLR0913 - what a revocation is asked for with
    target: str, serials: Sequence[str], *, reason: str, is_future: bool, token_file: str | None, as_json: bool
) -> None:
    """Revoke, and say what the lists hold now."""
    singles: list[str] = []
    ranges: list[list[str]] = []
    for text in serials:
        numbers = [str(parse_serial(part)) for part in text.split("-")]
        if len(numbers) == 1:
            singles += numbers
        elif len(numbers) == 2:
            ranges.append(numbers)
        else:
            raise UsageError(Reason.USAGE, f"{text!r} is no range of serial numbers; write FIRST-LAST")
    document = {"serials": singles, "ranges": ranges, "reason": reason, "future": is_future}

    async def work() -> Answer:
        async with reach(target, token_file) as operator:
            return await operator.ask("POST", "revocations", document, lambda ca: ca.revoke(document))

    answer = _run(work())
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        facts = " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in answer.items())
        console().print(f"revoked · {shown(facts)}")


def parse_serial(text: str) -> int:
    """Return a serial number, decimal, 0x… or hex with colons."""
    plain = text.strip()
    try:
        if ":" in plain:
            return int(plain.replace(":", ""), 16)
        return int(plain, 16 if plain.lower().startswith("0x") else 10)
    except ValueError:
        raise UsageError(
            Reason.USAGE, f"{text!r} is no serial number; write it decimal, as 0x… or as aa:bb:…"
        ) from None


def run_prune(target: str, *, is_dry_run: bool, token_file: str | None, as_json: bool) -> None:
    """Prune, or say what would go."""
    document = {"dry_run": is_dry_run}

    async def work() -> Answer:
        async with reach(target, token_file) as operator:
            return await operator.ask("POST", "prune", document, lambda ca: ca.prune(is_dry_run=is_dry_run))

    answer = _run(work())
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    out = console()
    for log in cast("list[dict[str, object]]", answer["logs"]):
        before, after = log["before"], log["minimum_index"]
        if before == after:
            out.print(f"log {log['log']}: nothing may be pruned; the minimum index stays {before}")
        else:
            verb = "would rise" if is_dry_run else "rose"
            out.print(
                f"log {log['log']}: the minimum index {verb} from {before} to {after}, {log['objects']} tiles and "
                f"bundles; policy {answer['policy']}"
            )
        rows = table("bound", "why", numeric=(0,))
        for limit in cast("list[dict[str, object]]", log["limits"]):
            rows.add_row(f"{limit['index']}", shown(str(limit["why"])))
        out.print(rows)


def run_rollover(target: str, *, reason: str, is_abandoned: bool, token_file: str | None, as_json: bool) -> None:
    """Go on in the next log."""
    operator_name = getpass.getuser()
    request = Rollover(reason, operator_name, is_abandoned=is_abandoned)
    document = {"reason": reason, "operator": operator_name, "abandon": is_abandoned}

    async def local(ca: RunningCA) -> Answer:
        # Opening it did the work.
        return {"old_log": ca.state.current_log - 1, "new_log": ca.state.current_log, "incident": ca.state.incidents}

    async def work() -> Answer:
        async with reach(target, token_file, request) as operator:
            return await operator.ask("POST", "rollover", document, local)

    answer = _run(work())
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        console().print(
            f"log {answer['old_log']} is closed and stays served; log {answer['new_log']} takes its place "
            f"(incident {answer['incident']})"
        )


def run_token(folder: str, name: str) -> None:
    """Make a token and print it."""
    token = CAFolder.read(Path(folder)).add_token(name, datetime.now(UTC))
    sys.stdout.write(token + "\n")


def run_status(target: str, *, token_file: str | None, as_json: bool) -> int:
    """Say how a CA is. Returns the exit code."""

    async def work() -> Answer:
        async with reach(target, token_file) as operator:
            return await operator.ask("GET", "status", None, describe_ca)

    answer = _run(work())
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        out = console()
        rows = table("field", "value")
        for field_name, value in answer.items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.add_row(field_name.replace("_", " "), shown(text))
        out.print(rows)
    return ExitCode.DONE if answer.get("status") == "ok" else ExitCode.NO


def _run(work: Coroutine[object, object, _Result]) -> _Result:
    """Run a coroutine on the fastest loop that is installed."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)
