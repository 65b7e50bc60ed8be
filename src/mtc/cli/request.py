"""`mtc request`: certificates over ACME, kept fresh, and a word about what it waits for."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from rich.status import Status

from mtc.acme.client.accounts import ServerChoice
from mtc.acme.client.keys import ACCOUNT_KEY_TYPES, KEY_TYPES, parse_mac_key
from mtc.acme.client.lineage import Kind, Wish
from mtc.acme.client.protocol import ExternalAccount
from mtc.acme.client.service import (
    CertificateReport,
    Requester,
    RequestPlan,
    RequestReport,
    folder_name,
    open_requester,
)
from mtc.acme.client.solvers import HookSolver, HTTPSolver, Solver, TLSALPNSolver, WebrootSolver
from mtc.acme.client.solvers.hook import split_command
from mtc.acme.client.transport import check_url, make_tls_context
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.validation import Method
from mtc.ca.sections import parse_duration
from mtc.cert import RevocationReason
from mtc.cli.output import ExitCode, console, error_console, named, read_input, shown
from mtc.errors import Error, PeerError, Reason, UsageError
from mtc.trust import TrustStore, parse_trust_store

_RESERVED = frozenset({"accounts", ".", ".."})
_VERIFIED = {
    "trust-store": "verified against --trust",
    "ca-certificate": "verified against the CA certificate that its server names",
    "": "not verified: no trust store (--trust) and no CA certificate at hand",
}
_REASONS = (
    RevocationReason.KEY_COMPROMISE,
    RevocationReason.AFFILIATION_CHANGED,
    RevocationReason.SUPERSEDED,
    RevocationReason.CESSATION_OF_OPERATION,
)
_ORDINARY = "an ordinary certificate, which is not verified here"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the command line says about one server."""

    directory: str
    ca_file: str | None
    profile: str | None
    key_type: str
    eab_kid: str | None
    eab_key_file: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """What the command line asks for."""

    server: ServerOptions
    classical: ServerOptions | None
    dns: tuple[str, ...]
    ip: tuple[str, ...]
    out: str
    name: str | None
    emails: tuple[str, ...]
    agrees_to_terms: bool
    account_key_type: str
    challenge: str | None
    http_port: int
    webroot: str | None
    tls_port: int
    listen: str | None
    dns_hook: str | None
    dns_wait: str
    reuses_key: bool
    trust: str | None
    is_once: bool
    is_daemon: bool
    is_forced: bool
    wait_landmark: str
    revoke: str | None
    deploy_hook: str | None
    as_json: bool


def run_request(options: RequestOptions) -> int:
    """Request, renew or revoke; return the exit code. Raises UsageError for options that cannot be."""
    if options.is_once and options.is_daemon:
        raise UsageError(Reason.USAGE, "--once ends and --daemon stays; give one of them")
    plan = make_plan(options)
    solvers = make_solvers(options)
    wait_s = parse_duration(options.wait_landmark, "--wait-landmark").total_seconds()
    reason = None if options.revoke is None else _parse_reason(options.revoke)
    with _Progress() as progress:
        try:
            return asyncio.run(_run(options, plan, solvers, wait_s, reason, progress))
        except KeyboardInterrupt:
            progress.note("interrupted; everything is kept, the next run goes on from here")
            raise


def make_plan(options: RequestOptions) -> RequestPlan:
    """Return what is to be kept fresh. Raises UsageError, FormatError."""
    identifiers = tuple(
        dict.fromkeys([*(Identifier.dns(name) for name in options.dns), *(Identifier.ip(ip) for ip in options.ip)])
    )
    if not identifiers:
        raise UsageError(Reason.USAGE, "name what the certificate is for: --dns NAME, or --ip ADDR")
    name = options.name or folder_name(identifiers[0])
    if name in _RESERVED or "/" in name or "\0" in name or name.startswith("."):
        raise UsageError(Reason.USAGE, f"{name!r} cannot be a certificate's folder; choose another --name")
    if options.deploy_hook is not None:
        split_command(options.deploy_hook, "--deploy-hook")
    trust = None if options.trust is None else _read_trust(options.trust)
    classical = options.classical
    return RequestPlan(
        root=Path(options.out),
        name=name,
        mtc=_wish(Kind.MTC, options.server, options, identifiers, trust),
        classical=None if classical is None else _wish(Kind.CLASSICAL, classical, options, identifiers, None),
        deploy_hook=options.deploy_hook,
    )


def make_solvers(options: RequestOptions) -> list[Solver]:
    """Return who answers challenges. Raises UsageError."""
    method = options.challenge or (Method.DNS_01 if options.dns_hook is not None else Method.HTTP_01)
    if method == Method.DNS_01:
        if options.dns_hook is None:
            raise UsageError(Reason.USAGE, "dns-01 needs a program that sets records: --dns-hook CMD")
        wait_s = parse_duration(options.dns_wait, "--dns-wait").total_seconds()
        return [HookSolver(options.dns_hook, wait_s=wait_s)]
    if method == Method.TLS_ALPN_01:
        return [TLSALPNSolver(options.tls_port, options.listen)]
    if method == Method.HTTP_01:
        if options.webroot is not None:
            return [WebrootSolver(Path(options.webroot))]
        return [HTTPSolver(options.http_port, options.listen)]
    raise UsageError(Reason.USAGE, f"--challenge is {', '.join(Method)}, not {method[:40]!r}")


async def _run(  # noqa: PLR0913 - what a run takes
    options: RequestOptions,
    plan: RequestPlan,
    solvers: Sequence[Solver],
    wait_s: float,
    reason: int | None,
    progress: "_Progress",
) -> int:
    """Run until done, or until a signal."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    is_stopped = asyncio.Event()

    def stop() -> None:
        is_stopped.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        async with open_requester(plan, solvers, progress) as requester:
            if reason is not None:
                await requester.revoke(reason)
                progress.note("revoked; the next run replaces it")
                return ExitCode.DONE
            if options.is_daemon:
                await requester.run_for_ever(
                    lambda report: _print_report(report, options, progress), is_forced=options.is_forced
                )
            return await _run_once(requester, options, wait_s, progress)
    except asyncio.CancelledError:
        # What is durable is whole, and the next run goes on. After ctrl-C the loop itself says so.
        if not is_stopped.is_set():
            raise
        progress.note("stopped; the next run goes on from here")
        return ExitCode.DONE if options.is_daemon else 128 + signal.SIGTERM
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _run_once(requester: Requester, options: RequestOptions, wait_s: float, progress: "_Progress") -> int:
    """Do what is due now, and say how it stands."""
    report = await requester.run(
        is_forced=options.is_forced, is_patient=options.is_once, landmark_wait_s=0.0 if options.is_once else wait_s
    )
    _print_report(report, options, progress)
    return ExitCode.DONE if _is_success(report, options) else ExitCode.NO


def _is_success(report: RequestReport, options: RequestOptions) -> bool:
    """Tell what the exit code says: waiting after an earlier failure is what --once is for."""
    waits = options.is_once and all(item.outcome != "failed" for item in report.certificates)
    return report.is_ok or (waits and all(item.is_done for item in report.deployments))


def _print_report(report: RequestReport, options: RequestOptions, progress: "_Progress") -> None:
    """Say how everything stands."""
    progress.rest()
    if options.as_json:
        sys.stdout.write(json.dumps(report.to_json()) + "\n")
        sys.stdout.flush()
        return
    out = console()
    for item in report.certificates:
        out.print(_describe(item))
    for done in report.deployments:
        verdict = (
            "ran"
            if done.is_done
            else f"[red]failed[/] with {done.code}, is tried again next time: {shown(done.output)}"
        )
        out.print(f"deploy hook for {', '.join(done.changed)} {verdict}")
    if report.next_step is not None:
        quiet = report.is_ok and all(item.outcome == "kept" for item in report.certificates)
        out.print(f"[dim]{'nothing to do until' if quiet else 'next step at'} {_when(report.next_step)}[/]")


def _describe(item: CertificateReport) -> str:
    """Return one certificate as one line."""
    kind = "" if item.kind is Kind.MTC else "classical fallback: "
    parts: list[str] = []
    if item.outcome in ("failed", "waiting"):
        parts.append(f"[red]{'failed' if item.outcome == 'failed' else 'waits after a failure'}:[/] {shown(item.note)}")
    if item.version is not None:
        state = item.version.state
        names = ", ".join(map(str, state.identifiers))
        parts.append(
            f"[green]{'issued' if item.outcome == 'new' else 'kept'}[/] {shown(names)} · serial {state.serial:x} · "
            f"until {_when(state.not_after)} · renewal {_when(item.version.renewal_moment)} · "
            f"{shown(str(item.version.folder))}"
        )
        if item.kind is Kind.MTC:
            parts.append(_VERIFIED.get(state.verified, state.verified) if state.is_mtc else _ORDINARY)
            parts.append(_describe_landmark(item))
    return kind + "\n  ".join(part for part in parts if part)


def _describe_landmark(item: CertificateReport) -> str:
    """Say how far the landmark-relative certificate is."""
    assert item.version is not None
    landmark = item.version.state.landmark
    if item.landmark == "stored":
        return "landmark-relative certificate: here"
    if item.landmark == "pending":
        again = "" if landmark.next_try is None else f", asked again at {_when(landmark.next_try)}"
        note = f" ({shown(landmark.note)})" if landmark.note else ""
        return f"landmark-relative certificate: not ready{again}{note}"
    return ""


def _when(moment: datetime) -> str:
    """Write a time for people."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _wish(
    kind: Kind,
    server: ServerOptions,
    options: RequestOptions,
    identifiers: tuple[Identifier, ...],
    trust: TrustStore | None,
) -> Wish:
    """Return what is wanted of one server."""
    if server.key_type not in KEY_TYPES:
        raise UsageError(
            Reason.UNKNOWN_ALGORITHM, f"a key is one of {', '.join(KEY_TYPES)}, not {server.key_type[:40]!r}"
        )
    if options.account_key_type not in ACCOUNT_KEY_TYPES:
        raise UsageError(
            Reason.UNKNOWN_ALGORITHM,
            f"an account's key is one of {', '.join(ACCOUNT_KEY_TYPES)}, not {options.account_key_type[:40]!r}",
        )
    try:
        check_url(server.directory, allows_http=True)
    except PeerError as error:
        raise UsageError(Reason.USAGE, error.message) from None
    ca_file = None if server.ca_file is None else Path(server.ca_file)
    make_tls_context(ca_file)
    return Wish(
        kind=kind,
        server=ServerChoice(
            directory=server.directory,
            ca_file=ca_file,
            contacts=tuple(email if ":" in email else f"mailto:{email}" for email in options.emails),
            agrees_to_terms=options.agrees_to_terms,
            external_account=_external_account(server),
            profile=server.profile,
            account_key_type=options.account_key_type,
        ),
        identifiers=identifiers,
        key_type=server.key_type,
        reuses_key=options.reuses_key,
        trust=trust,
        has_classical=options.classical is not None,
    )


def _external_account(server: ServerOptions) -> ExternalAccount | None:
    """Return the external account. Raises UsageError when half of it is missing."""
    if server.eab_kid is None and server.eab_key_file is None:
        return None
    if server.eab_kid is None or server.eab_key_file is None:
        raise UsageError(Reason.USAGE, "an external account is both: --eab-kid and --eab-key-file")
    try:
        return ExternalAccount(server.eab_kid, parse_mac_key(read_input(server.eab_key_file)))
    except UsageError as error:
        raise named(error, server.eab_key_file) from None


def _read_trust(file: str) -> TrustStore:
    """Read the trust store."""
    data = read_input(file)
    try:
        return parse_trust_store(data)
    except Error as error:
        raise UsageError(error.reason, f"{file}: {error.message}") from None


def _parse_reason(text: str) -> int:
    """Return the number of a reason that a subscriber may give. Raises UsageError."""
    labels = {"unspecified": 0, **{reason.label: int(reason) for reason in _REASONS}}
    if text not in labels:
        raise UsageError(Reason.USAGE, f"--revoke is one of {', '.join(labels)}, not {text[:40]!r}")
    return labels[text]


class _Progress:
    """Tells what happens now: a line that changes on a terminal, with the steps done above it; lines in a pipe."""

    def __init__(self) -> None:
        self._console = error_console()
        self._status: Status | None = None
        self._steps: dict[Kind, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.rest()

    def tell(self, kind: Kind, text: str) -> None:
        """Show a step, and how long the one before took."""
        now, line = time.monotonic(), text if kind is Kind.MTC else f"classical: {text}"
        if not self._console.is_terminal:
            self._console.print(shown(line))
            return
        self._finish(kind, now)
        self._steps[kind] = line, now
        if self._status is None:
            self._status = self._console.status("")
            self._status.start()
        self._status.update(shown(" · ".join(step for step, _ in self._steps.values())))

    def note(self, text: str) -> None:
        """Say one thing that is no step."""
        self.rest()
        self._console.print(shown(text))

    def rest(self) -> None:
        """Finish all steps."""
        now = time.monotonic()
        for kind in list(self._steps):
            self._finish(kind, now)
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _finish(self, kind: Kind, now: float) -> None:
        """Leave a step behind."""
        if kind in self._steps:
            line, since = self._steps.pop(kind)
            self._console.print(f"[dim]{now - since:6.1f} s[/]  {shown(line)}")
