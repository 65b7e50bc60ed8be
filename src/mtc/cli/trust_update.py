"""`mtc trust init|update|show|rollback`: a relying party that is kept up to date."""

import asyncio
import contextlib
import json
import random
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mtc.cli.output import (
    ExitCode,
    console,
    error_console,
    named,
    print_error,
    read_input,
    shown,
    table,
    write_new_file,
)
from mtc.cosign.config import check_url
from mtc.cosign.evidence.service import EVIDENCE_PREFIX
from mtc.crypto import Verifier
from mtc.errors import Error, FormatError, Reason, UsageError
from mtc.trust import format_trust_store
from mtc.trust.updater import (
    Updated,
    Updater,
    UpdaterConfig,
    count_evidence,
    create_updater,
    http_client,
    parse_pinned_key,
    read_update_state,
)
from mtc.trust.updates import Freshness, Staleness, UpdateState, UpdateTrust, freshness_of, trust_store_of
from mtc.web.client import HTTPClient
from mtc.web.metrics import Metric, MetricKind, Metrics
from mtc.web.stopping import stop_on_signals
from mtc.wire import parse_pem

_COLOURS = {Staleness.FRESH: "green", Staleness.STALE: "yellow", Staleness.EXPIRED: "red"}


def run_init(  # noqa: PLR0913 - what a relying party is told
    folder: str, *, url: str, policy_keys: list[str], service_keys: list[str], stale_after_s: int, as_json: bool
) -> None:
    """Make the folder of a relying party."""
    trust = UpdateTrust(tuple(map(_read_key, policy_keys)), tuple(map(_read_key, service_keys)))
    is_new = create_updater(Path(folder), UpdaterConfig(check_url(url, "--url"), trust, stale_after_s))
    if as_json:
        _print({"folder": folder, "new": is_new, "service_is_trusted": bool(service_keys)})
    elif is_new:
        how = "is trusted for landmarks" if service_keys else "needs no trust; each landmark comes with its proof"
        console().print(f"{shown(folder)} follows {shown(url)}, which {how}.\n\nNext:\n")
        console().print(f"  mtc trust update {shown(folder)}", style="cyan")
    else:
        console().print(f"{shown(folder)} is there already; nothing was changed.")


def _read_key(file: str) -> Verifier:
    """Read a public key, PEM."""
    try:
        blocks = [block.data for block in parse_pem(read_input(file)) if block.label == "PUBLIC KEY"]
        if len(blocks) != 1:
            raise FormatError(Reason.BAD_PEM, "the file must hold exactly one PUBLIC KEY block")
        return parse_pinned_key(blocks[0])
    except UsageError:
        raise
    except Error as error:
        raise UsageError(error.reason, f"{file}: {error.message}") from None


def run_update(folder: str, *, is_daemon: bool, interval_s: int, metrics: str | None, as_json: bool) -> ExitCode:
    """Update once, or again and again. metrics: file to write for a collector."""
    look = _Look(None if metrics is None else Path(metrics), as_json, is_daemon)
    return asyncio.run(_follow(Path(folder), interval_s, look) if is_daemon else _update(Path(folder), look))


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at the service, and where its outcome is told. goes_on: more looks follow, whatever this one gives."""

    metrics: Path | None
    as_json: bool
    goes_on: bool

    async def take(self, updater: Updater, http: HTTPClient) -> ExitCode:
        """Look once; what goes wrong is reported and not raised, except for wrong arguments."""
        try:
            code = _report(updater.folder, await updater.update(http, _now()), as_json=self.as_json)
        except UsageError:
            raise
        except Error as error:
            code = _report_failure(updater, error, as_json=self.as_json)
        try:
            if self.metrics is not None:
                kept = count_evidence(updater.folder)
                write_metrics(self.metrics, updater.state, updater.freshness(_now()), _now(), evidence=kept)
        except UsageError as error:
            if not self.goes_on:
                raise
            # A full disk today does not end the updates of tomorrow.
            print_error(error)
            code = ExitCode.NO
        return code


async def _update(folder: Path, look: _Look) -> ExitCode:
    """Update once."""
    async with Updater.open(folder) as updater, http_client() as http:
        return await look.take(updater, http)


async def _follow(folder: Path, interval_s: int, look: _Look) -> ExitCode:
    """Update until told to stop."""
    stop = stop_on_signals()
    code = ExitCode.NO
    async with Updater.open(folder) as updater, http_client() as http:
        while not stop.is_set():
            code = await look.take(updater, http)
            # Spread, so that many relying parties do not come at once.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), interval_s * random.uniform(0.9, 1.1))  # noqa: S311 - no secret
    return code


TRUST_METRICS = (
    Metric("mtc_trust_version", MetricKind.GAUGE, "Version of the update held, POSIX seconds; 0 before the first."),
    Metric("mtc_trust_policy_expires_seconds", MetricKind.GAUGE, "When the policy held expires, POSIX seconds."),
    Metric("mtc_trust_looked_seconds", MetricKind.GAUGE, "When the service was last asked, POSIX seconds."),
    Metric("mtc_trust_staleness", MetricKind.GAUGE, "1 for the word that describes what is held.", ("staleness",)),
    Metric("mtc_trust_landmark", MetricKind.GAUGE, "Latest landmark held, by CA and log.", ("ca", "log")),
    Metric("mtc_trust_evidence", MetricKind.GAUGE, "Bundles of evidence that are kept; see docs/evidence.md."),
)
"""Metrics of a relying party; see docs/updates.md."""


def write_metrics(file: Path, state: UpdateState, freshness: Freshness, now: datetime, *, evidence: int) -> None:
    """Write what a relying party holds for a textfile collector, whole or not at all. Raises UsageError."""
    metrics = Metrics(TRUST_METRICS)
    metrics.set("mtc_trust_version", state.version)
    metrics.set("mtc_trust_policy_expires_seconds", 0 if state.policy is None else state.policy.expires)
    metrics.set("mtc_trust_looked_seconds", int(now.timestamp()))
    for word in Staleness:
        metrics.set("mtc_trust_staleness", word is freshness.staleness, staleness=word.value)
    metrics.set("mtc_trust_evidence", evidence)
    for log in state.logs:
        metrics.set("mtc_trust_landmark", log.latest.number, ca=log.ca_id, log=log.log_number)
    temporary = file.with_name(f".{file.name}.new")
    write_new_file(temporary, metrics.encode())
    try:
        temporary.replace(file)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise UsageError(Reason.UNREADABLE, f"{file} cannot be replaced: {text}", file=str(file)) from None


def run_show(folder: str, *, with_store: bool, as_json: bool) -> ExitCode:
    """Show what is held."""
    now = _now()
    try:
        config, state = read_update_state(Path(folder))
        if with_store:
            sys.stdout.write(format_trust_store(trust_store_of(state, now)).decode())
    except UsageError:
        raise
    except Error as error:
        print_error(named(error, folder))
        return ExitCode.NO
    freshness = freshness_of(state, now, config.stale_after_s)
    if as_json and not with_store:
        _print(_describe(Path(folder), state, freshness))
    elif not with_store:
        _show(state, freshness)
        _tell_evidence(Path(folder))
    return _code(Path(folder), freshness)


def _show(state: UpdateState, freshness: Freshness) -> None:
    """Print what is held for people."""
    out = console()
    out.print(_headline(state, freshness))
    if state.policy is None:
        return
    rows = table("CA", "log", "landmarks", "latest", "tree size", "cosigned (UTC)", numeric=(1, 2, 3, 4))
    for log in state.logs:
        moment = (
            f"{datetime.fromtimestamp(log.cosigned_at, UTC):%Y-%m-%d %H:%M:%S}" if log.cosigned_at else "by the service"
        )
        count = len(log.landmarks) - 1
        rows.add_row(
            str(log.ca_id), str(log.log_number), str(count), str(log.latest.number), f"{log.latest.tree_size:,}", moment
        )
    out.print(rows)
    for ca in state.policy.store.cas:
        out.print(f"CA {ca.ca_id}: needs {ca.policy.quorum}; {len(ca.revoked)} revoked ranges")


def run_rollback(folder: str, *, version: int | None, as_json: bool) -> None:
    """Return to an earlier state."""

    async def run() -> UpdateState:
        async with Updater.open(Path(folder)) as updater:
            return await updater.rollback(version)

    state = asyncio.run(run())
    if as_json:
        _print({"version": state.version, "skipped": state.skipped})
    else:
        console().print(
            f"landmarks are those of version {state.version} again, under policy version "
            f"{state.policy.version if state.policy else 0}; the next version after {state.skipped} is taken."
        )


def _report(folder: Path, updated: Updated, *, as_json: bool) -> ExitCode:
    """Say what an update gave."""
    code = _code(folder, updated.freshness)
    if updated.findings:
        code = ExitCode.NO
    if as_json:
        findings = [
            {"ca": str(item.ca_id), "log": item.log_number, "reason": item.error.reason, "message": item.error.message}
            for item in updated.findings
        ]
        about = {"new": updated.is_new, "delta": updated.is_delta, "bytes": updated.bytes, "findings": findings}
        _print({**_describe(folder, updated.state, updated.freshness), **about})
        return code
    how = "nothing new" if not updated.is_new else "a delta" if updated.is_delta else "everything"
    console().print(f"{_headline(updated.state, updated.freshness)} · {how} in {updated.bytes:,} bytes")
    for item in updated.findings:
        about_log = f"CA {item.ca_id}" + (f" log {item.log_number}" if item.log_number else "")
        error_console().print(
            f"[bold red]not taken:[/] {about_log}: {shown(item.error.message)} [dim]({item.error.reason})[/]"
        )
    _tell_evidence(folder)
    return code


def _tell_evidence(folder: Path) -> None:
    """Say that evidence is kept, if there is any."""
    if kept := count_evidence(folder):
        error_console().print(
            f"[bold red]two histories:[/] {kept} bundles of evidence lie in {shown(str(folder / EVIDENCE_PREFIX))}; "
            "report them, then move them away. mtc evidence verify FILE tells what one proves"
        )


def _report_failure(updater: Updater, error: Error, *, as_json: bool) -> ExitCode:
    """Say why nothing was taken, and how old what is held is."""
    freshness, state = updater.freshness(_now()), updater.state
    if as_json:
        _print(
            {
                **_describe(updater.folder, state, freshness),
                "new": False,
                "reason": error.reason,
                "message": error.message,
            }
        )
    else:
        print_error(error)
        console().print(f"{_headline(state, freshness)} · the last good state stays")
    return ExitCode.NO


def _headline(state: UpdateState, freshness: Freshness) -> str:
    """Return one line about a state."""
    word = f"[{_COLOURS[freshness.staleness]}]{freshness.staleness}[/]"
    if state.policy is None:
        return f"{word}: no update was taken yet"
    behind = f", behind: {', '.join(freshness.behind)}" if freshness.behind else ""
    left = freshness.policy_left_s
    ends = (
        f"policy {state.policy.version} ends in {left:,} s"
        if left >= 0
        else f"policy {state.policy.version} has expired"
    )
    return f"{word}: version {state.version}, {freshness.age_s:,} s old; {ends}{behind}"


def _describe(folder: Path, state: UpdateState, freshness: Freshness) -> dict[str, object]:
    """Return a state for scripts."""
    policy = state.policy
    logs = [
        {
            "ca": str(log.ca_id),
            "log": log.log_number,
            "landmark": log.latest.number,
            "active": len(log.landmarks) - 1,
            "tree_size": log.latest.tree_size,
            "cosigned_at": log.cosigned_at,
        }
        for log in state.logs
    ]
    return {
        "staleness": freshness.staleness,
        "version": state.version,
        "age_s": freshness.age_s,
        "policy_version": 0 if policy is None else policy.version,
        "policy_left_s": freshness.policy_left_s,
        "behind": list(freshness.behind),
        "state_bytes": len(state.encode()),
        "evidence": count_evidence(folder),
        "logs": logs,
    }


def _code(folder: Path, freshness: Freshness) -> ExitCode:
    """Return the exit code that tells scripts about staleness, and about evidence that nobody has looked at."""
    is_well = freshness.staleness is Staleness.FRESH and not count_evidence(folder)
    return ExitCode.DONE if is_well else ExitCode.NO


def _now() -> datetime:
    """Return this moment."""
    return datetime.now(UTC)


def _print(fields: dict[str, object]) -> None:
    """Print one JSON object, at once: a daemon's reader waits for it."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()
