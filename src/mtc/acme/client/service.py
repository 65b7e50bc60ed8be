"""What `mtc request` runs: the certificate, the classical one beside it, and the deploy hook, once or for ever.

The two certificates have nothing to do with each other but the ports and the hook: neither's failure hinders the other.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from mtc.acme.client.accounts import AccountFolder
from mtc.acme.client.connection import Seams
from mtc.acme.client.deploy import Deployment, deploy
from mtc.acme.client.disk import Disk, locked, make_folders
from mtc.acme.client.folder import Lineage, Version, with_deployed
from mtc.acme.client.lineage import CLASSICAL_LINK, Keeper, Kind, Wish
from mtc.acme.client.renewal import back_off_s, show_time
from mtc.acme.client.solvers import Solver
from mtc.acme.machine.identifiers import Identifier
from mtc.errors import Error, Reason, StorageError

LONGEST_SLEEP_S = 3600.0
"""A daemon looks at the clock this often, because it may be set meanwhile."""
_SHORTEST_SLEEP_S = 1.0


class Observer(Protocol):
    """Is told what happens now, for people."""

    def tell(self, kind: Kind, text: str) -> None:
        """Take one line about one of the certificates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPlan:
    """What is to be kept fresh. root: the folder of everything. name: of this certificate's folder in it.

    classical: the fallback of another CA, None for none. deploy_hook: a command, None for none.
    """

    root: Path
    name: str
    mtc: Wish
    classical: Wish | None = None
    deploy_hook: str | None = None

    @property
    def folder(self) -> Path:
        """Where this certificate lies."""
        return self.root / self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateReport:
    """How one certificate stands. outcome: `new`, `kept`, `waiting` (after a failure) or `failed`. error: why.

    version: what servers load, None before the first. landmark: `stored`, `pending` or empty. next_step: None: at once.
    """

    kind: Kind
    outcome: str
    version: Version | None
    error: Error | None = None
    note: str = ""
    next_step: datetime | None = None

    @property
    def landmark(self) -> str:
        """How far the landmark-relative certificate is."""
        if self.version is None or not self.version.state.landmark.urls:
            return ""
        return "stored" if self.version.state.landmark.is_stored else "pending"

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        state = None if self.version is None else self.version.state
        return {
            "kind": str(self.kind),
            "outcome": self.outcome,
            "error": self.note or None,
            "reason": None if self.error is None else str(self.error.reason),
            "folder": None if self.version is None else str(self.version.folder),
            "serial": None if state is None else f"{state.serial:x}",
            "not_before": None if state is None else show_time(state.not_before),
            "not_after": None if state is None else show_time(state.not_after),
            "mtc": None if state is None else state.is_mtc,
            "verified": None if state is None else state.verified or None,
            "landmark": self.landmark or None,
            "landmark_next_try": None if state is None else show_time(state.landmark.next_try),
            "renewal": None if self.version is None else show_time(self.version.renewal_moment),
            "next_step": show_time(self.next_step),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReport:
    """What a run did. next_step: when there is something to do again; None: at once."""

    plan: RequestPlan
    certificates: tuple[CertificateReport, ...]
    deployments: tuple[Deployment, ...]
    next_step: datetime | None

    @property
    def is_ok(self) -> bool:
        """True when nothing failed."""
        certificates = all(item.outcome in ("new", "kept") for item in self.certificates)
        return certificates and all(item.is_done for item in self.deployments)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "name": self.plan.name,
            "directory": str(self.plan.folder / "current"),
            "ok": self.is_ok,
            "certificates": [item.to_json() for item in self.certificates],
            "deployments": [item.to_json() for item in self.deployments],
            "next_step": show_time(self.next_step),
        }


class Requester:
    """Runs one plan; use `open_requester`, which holds the lock."""

    def __init__(self, plan: RequestPlan, keepers: Sequence[Keeper], observer: Observer, seams: Seams) -> None:
        """Take the parts."""
        self.plan = plan
        self._keepers = keepers
        self._observer = observer
        self._seams = seams
        self._deploying = asyncio.Lock()
        self._deployments: list[Deployment] = []
        self._failed_deployments = 0

    async def run(
        self, *, is_forced: bool = False, is_patient: bool = False, landmark_wait_s: float = 0.0
    ) -> RequestReport:
        """Do what is due now. Never raises Error for one certificate: the report has it.

        is_patient: what failed is not tried again before its time. landmark_wait_s: how long to stay for a landmark,
        after everything is deployed. Raises StorageError when the disk fails.
        """
        self._deployments = []
        with _disk_errors():
            reports = await self._refresh_all(is_forced=is_forced, is_patient=is_patient)
            await self._fetch_landmark(landmark_wait_s)
            now = self._seams.now()
            for keeper in self._keepers:
                keeper.lineage.prune(now)
            return self._report(reports, now)

    async def run_for_ever(self, seen: Callable[[RequestReport], None], *, is_forced: bool = False) -> None:
        """Do what is due, and sleep until something is due again, until cancelled."""
        while True:
            report = await self.run(is_forced=is_forced, is_patient=not is_forced)
            is_forced = False
            seen(report)
            until_s = 0.0 if report.next_step is None else (report.next_step - self._seams.now()).total_seconds()
            await self._seams.pause(min(max(until_s, _SHORTEST_SLEEP_S), LONGEST_SLEEP_S))

    async def revoke(self, reason: int) -> None:
        """Revoke the Merkle Tree certificate that servers load now. The next run replaces it. Raises Error."""
        with _disk_errors():
            await self._keepers[0].revoke(reason)

    async def _refresh_all(self, *, is_forced: bool, is_patient: bool) -> dict[Kind, tuple[bool, Error | None]]:
        """Keep all certificates fresh, side by side. What the disk refuses to one is raised after the other is done."""
        results = await asyncio.gather(
            *(self._refresh(keeper, is_forced=is_forced, is_patient=is_patient) for keeper in self._keepers),
            return_exceptions=True,
        )
        reports: dict[Kind, tuple[bool, Error | None]] = {}
        for keeper, result in zip(self._keepers, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            reports[keeper.wish.kind] = result
        return reports

    async def _refresh(self, keeper: Keeper, *, is_forced: bool, is_patient: bool) -> tuple[bool, Error | None]:
        """Keep one certificate fresh and deploy it at once; return whether it is new, and what went wrong."""
        is_new, error = False, None
        try:
            is_new = await keeper.refresh(is_forced=is_forced, is_patient=is_patient)
        except Error as raised:
            error = raised
        if self.plan.classical is not None and keeper.wish.kind is Kind.MTC:
            current = keeper.lineage.current()
            if current is not None:
                # The fallback may have been asked for after the certificate.
                keeper.lineage.add(current, Kind.CLASSICAL, CLASSICAL_LINK)
        await self._deploy()
        return is_new, error

    async def _fetch_landmark(self, wait_s: float) -> None:
        """Fetch the landmark-relative certificate, staying for it a while, and deploy it."""
        keeper = self._keepers[0]
        until = self._seams.now() + timedelta(seconds=wait_s)
        while True:
            if await keeper.fetch_landmark():
                await self._deploy()
            current, now = keeper.lineage.current(), self._seams.now()
            if current is None or not current.state.landmark.is_wanted:
                return
            next_try = current.state.landmark.next_try or now
            if next_try > until:
                return
            self._observer.tell(Kind.MTC, f"waiting for a landmark, asking again at {next_try:%H:%M:%S} UTC")
            await self._seams.pause(max((next_try - now).total_seconds(), 0.05))

    async def _deploy(self) -> None:
        """Tell the hook what it has not been told of yet. Only one runs at a time."""
        if self.plan.deploy_hook is None:
            return
        async with self._deploying:
            pending = [(keeper, current) for keeper in self._keepers if (current := keeper.lineage.current())]
            changed = {keeper.wish.kind: _undeployed(keeper.wish.kind, current) for keeper, current in pending}
            what = tuple(part for parts in changed.values() for part in parts)
            if not what:
                return
            self._observer.tell(pending[0][0].wish.kind, f"running the deploy hook for {', '.join(what)}")
            done = await deploy(self.plan.deploy_hook, self.plan.folder, what, pending[0][1])
            self._deployments.append(done)
            if not done.is_done:
                self._failed_deployments += 1
                said = f": {done.output}" if done.output else ""
                self._observer.tell(pending[0][0].wish.kind, f"the deploy hook ended with {done.code}{said}")
                return
            self._failed_deployments = 0
            for keeper, current in pending:
                keeper.lineage.save(current, with_deployed(current.state, *changed[keeper.wish.kind]))

    def _report(self, outcomes: dict[Kind, tuple[bool, Error | None]], now: datetime) -> RequestReport:
        """Say how everything stands."""
        certificates = []
        for keeper in self._keepers:
            is_new, error = outcomes[keeper.wish.kind]
            attempts = keeper.lineage.attempts()
            if error is not None:
                outcome, note = "failed", error.message
            elif attempts.failures:
                outcome, note = "waiting", attempts.error
            else:
                outcome, note = "new" if is_new else "kept", ""
            certificates.append(
                CertificateReport(
                    kind=keeper.wish.kind,
                    outcome=outcome,
                    version=keeper.lineage.current(),
                    error=error,
                    note=note,
                    next_step=keeper.next_step(),
                )
            )
        steps = [item.next_step or now for item in certificates]
        if self._failed_deployments:
            steps.append(now + timedelta(seconds=back_off_s(self._failed_deployments)))
        return RequestReport(
            plan=self.plan,
            certificates=tuple(certificates),
            deployments=tuple(self._deployments),
            next_step=min(steps),
        )


@asynccontextmanager
async def open_requester(
    plan: RequestPlan,
    solvers: Sequence[Solver],
    observer: Observer,
    *,
    seams: Seams | None = None,
    disk: Disk | None = None,
) -> AsyncIterator[Requester]:
    """Take the lock on a certificate's folder and clear away what a crash left. Raises ConflictError, StorageError."""
    seams, disk = seams or Seams(), disk or Disk()
    with contextlib.ExitStack() as stack:
        with _disk_errors():
            make_folders(disk, plan.folder)
            stack.enter_context(locked(plan.folder / "lock", str(plan.folder)))
            wishes = [wish for wish in (plan.mtc, plan.classical) if wish is not None]
            keepers = [_keeper(plan, wish, solvers, observer, seams, disk) for wish in wishes]
            for keeper in keepers:
                keeper.lineage.open()
        try:
            yield Requester(plan, keepers, observer, seams)
        finally:
            for solver in solvers:
                await solver.close()


def folder_name(identifier: Identifier) -> str:
    """Return the name of a certificate's folder that is called after an identifier: no `*`, no `:`."""
    return identifier.value.replace("*", "_").replace(":", "-")


def _keeper(  # noqa: PLR0913 - what a certificate takes
    plan: RequestPlan, wish: Wish, solvers: Sequence[Solver], observer: Observer, seams: Seams, disk: Disk
) -> Keeper:
    """Make what keeps one certificate fresh."""
    folder = plan.folder if wish.kind is Kind.MTC else plan.folder / Kind.CLASSICAL
    account = AccountFolder(disk, plan.root / "accounts", wish.server.directory)
    return Keeper(wish, Lineage(disk, folder), account, solvers, lambda text: observer.tell(wish.kind, text), seams)


def _undeployed(kind: Kind, version: Version) -> tuple[str, ...]:
    """Return what the hook has not been told of."""
    if kind is Kind.CLASSICAL:
        there = ["classical"]
    else:
        there = ["standalone", *(["landmark"] if version.state.landmark.is_stored else [])]
    return tuple(part for part in there if part not in version.state.deployed)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Say which file it was when the disk refuses something. Raises StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            Reason.STORAGE, f"{error.filename or 'the disk'}: {(error.strerror or str(error)).lower()}"
        ) from None
