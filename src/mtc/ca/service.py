"""A CA that runs: its folder, its signer, its log, and the loops that drive them.

`open_ca` puts the parts together and finishes what a crash left unfinished. `RunningCA.sequencing` runs rounds,
landmarks, revocation lists and housekeeping until its context ends. What an operator asks for while it runs, a change
of the log for example, takes its turn between them.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from mtc.ca.authority import CertificationAuthority, Issued, LandmarkView
from mtc.ca.cosigning.pool import CosignerPool
from mtc.ca.folder import CAFolder, prepare_storage
from mtc.ca.housekeeping import PartialCollector, delete_pruned
from mtc.ca.landmark_service import LandmarkClock, LandmarkLog
from mtc.ca.landmarks import Hold, LandmarkHold, LandmarkRules, LandmarkState
from mtc.ca.metrics import CAMetrics
from mtc.ca.proofs import TreeHead
from mtc.ca.requests import EntryRules, IssuanceRequest
from mtc.ca.revocation_service import RevocationPublisher
from mtc.ca.signing import CATreeSigner
from mtc.ca.state import STATE_NAME, CAState, Incident, plan_rollover
from mtc.ca.status import RateMeter
from mtc.cert import Certificate, parse_certificate_chains
from mtc.cosign.evidence import Evidence
from mtc.cosign.evidence.service import EvidenceKeeper
from mtc.errors import ConflictError, Error, FormatError, Reason, Rejected
from mtc.ids import log_id
from mtc.kernel import active_kernel
from mtc.lint import LintRules
from mtc.log import LogRecord
from mtc.log.formats import public_prefix
from mtc.log.ledger.service import Ledger
from mtc.log.pruning import PruningPlan, plan_pruning
from mtc.log.service import CosignatureSource, IssuanceLog, RoundLimits, close_abandoned_log
from mtc.merkle import Hasher
from mtc.note import SignatureType, VerifierKey, parse_note
from mtc.signer.service import SignerClient, SignerProcess
from mtc.store import Storage
from mtc.trust import TrustStore, trusted_ca_from_certificate
from mtc.web.clock import Clock, ClockGuard, SystemClock
from mtc.web.logs import open_logger

_LOG = open_logger("ca")
_LONGEST_BACKOFF_S = 5.0
_LATE_LOOK_S = 15.0
_HOUSEKEEPING_S = 60.0


@dataclass(frozen=True, slots=True)
class CAParts:
    """What every part of a running CA shares."""

    folder: CAFolder
    storage: Storage
    clock: Clock
    guard: ClockGuard
    hasher: Hasher
    signer: SignerClient
    tree_signer: CATreeSigner
    key: VerifierKey
    cosigners: CosignatureSource | None
    metrics: CAMetrics = field(default_factory=CAMetrics)
    pool: CosignerPool | None = None

    async def open_log(self, number: int) -> IssuanceLog:
        """Open a log, made if it does not exist, and finish its unfinished round."""
        config, objects = self.folder.config, self.storage.objects
        closed = await self.read_closed(number)
        earlier = {other: await Ledger.open(objects, other, record.tree_size) for other, record in closed.items()}
        return await IssuanceLog.open(
            self.hasher,
            number,
            self.storage.objects,
            self.storage.register,
            self.tree_signer,
            self.guard,
            has_counter=config.has_counter,
            revision=config.revision,
            cosigners=self.cosigners,
            earlier=earlier,
            limits=self._limits(),
        )

    def _limits(self) -> RoundLimits:
        """Return the sequencer's numbers. Cosigners that a test hands in go by the profile."""
        config = self.folder.config
        return RoundLimits(
            needs_view=config.needs_view if self.pool else config.profile.needs_view and self.cosigners is not None,
            may_run_ahead=config.may_run_ahead,
            quorum_wait_s=config.quorum_wait.total_seconds(),
        )

    async def open_landmarks(self, number: int, current: int) -> LandmarkClock:
        """Open the landmarks of a log."""
        config = self.folder.config
        log = LandmarkLog(
            log_number=number,
            origin=log_id(config.ca_id, number).oid_name,
            hasher=self.hasher,
            keys=(self.key,),
            others=[other for other in range(1, current + 1) if other != number],
        )
        rules = LandmarkRules.of_profile(config.profile, config.revision)
        storage = self.storage
        return await LandmarkClock.open(log, storage.objects, storage.register, self.guard, rules)

    async def read_closed(self, current: int) -> dict[int, LogRecord]:
        """Return the records of the logs before the current one, by number."""
        found = {number: await self.storage.register.read(f"log-{number}") for number in range(1, current)}
        return {number: LogRecord.parse(data) for number, data in found.items() if data is not None}

    async def open_all_landmarks(self, current: int) -> dict[int, LandmarkClock]:
        """Open the landmarks of every log, by number."""
        return {number: await self.open_landmarks(number, current) for number in range(1, current + 1)}


class RunningCA:
    """A CA in this process. Use `open_ca`."""

    def __init__(
        self,
        parts: CAParts,
        state: CAState,
        log: IssuanceLog,
        landmarks: Mapping[int, LandmarkClock],
        closed: Mapping[int, LogRecord],
    ) -> None:
        """Use `open_ca`."""
        self.parts = parts
        self.state = state
        self.log = log
        # Of every log by number: an earlier log takes no entries, but its last ones still get a landmark.
        self._clocks = dict(landmarks)
        self.revocations: RevocationPublisher
        # Records of earlier logs by number; they only change when they are pruned.
        self._closed = dict(closed)
        self.started = parts.clock.now()
        # What fails at present, by part; for people.
        self.trouble: dict[str, str] = {}
        self.rates = RateMeter()
        # The entries [start, end) of the newest round of this process.
        self.last_round: tuple[int, int] | None = None
        self._is_stopping = False
        # Steady seconds of the next look for cosigners that lack the newest tree, and the pause after it.
        self._look_at = 0.0
        self._look_pause_s = _LATE_LOOK_S
        # Rounds and what operators do exclude each other.
        self._turn = asyncio.Lock()
        config = parts.folder.config
        self.authority = CertificationAuthority(
            EntryRules(config.ca_id, config.revision, config.profile, parts.hasher, _crl_url(config.prefix_url)),
            lint_rules(parts.folder),
            log,
            parts.storage.objects,
            parts.clock,
            TrustStore([trusted_ca_from_certificate(parts.folder.certificate)]),
            allowed_names=config.allowed_names,
            landmarks=self,
            max_active_landmarks=LandmarkRules.of_profile(config.profile, config.revision).max_active,
        )

    # What the authority asks for.

    @property
    def landmarks(self) -> LandmarkClock:
        """The landmarks of the current log."""
        return self._clocks[self.state.current_log]

    async def landmarks_of(self, log_number: int) -> LandmarkView:
        """Return the landmarks of the current log, or of an earlier one."""
        clock = self._clocks.get(log_number)
        if clock is None:
            raise Rejected(Reason.NO_LANDMARK, f"this CA has no log {log_number}", log=log_number)
        if clock.head is None:
            await clock.tick()
        head = clock.head
        if head is None:
            raise Rejected(Reason.NO_LANDMARK, f"log {log_number} has no checkpoint", log=log_number)
        return LandmarkView(clock.state.sequence, head, clock.next_due())

    # The loops.

    @asynccontextmanager
    async def sequencing(self) -> AsyncIterator["RunningCA"]:
        """Run rounds, landmarks, lists and housekeeping until the context ends; then finish what waits."""
        profile = self.parts.folder.config.profile
        loops = (
            (self._round, profile.round_interval.total_seconds(), "rounds"),
            (self._landmark, 1.0, "landmarks"),
            (self.publish_lists, 1.0, "revocation"),
            (self._housekeeping, _HOUSEKEEPING_S, "housekeeping"),
        )
        tasks = [asyncio.create_task(self._repeat(*loop)) for loop in loops]
        try:
            yield self
        finally:
            self._is_stopping = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(Error):
                await self._last_round()

    async def _repeat(self, step: Callable[[], Awaitable[None]], interval_s: float, name: str) -> None:
        """Do a step again and again. What may pass by itself is tried again later, the rest is reported and stays."""
        failures = 0
        while True:
            began = self.parts.clock.monotonic()
            try:
                await step()
                failures = 0
                self.trouble.pop(name, None)
            except Error as error:
                failures += 1
                if self.trouble.get(name) != error.message:
                    _LOG.error("failed", part=name, reason=str(error.reason), error=error.message)
                self.trouble[name] = error.message
            backoff = min(interval_s * 2**failures, max(_LONGEST_BACKOFF_S, interval_s)) if failures else interval_s
            # The next step begins one interval after this one began, not after it ended.
            await asyncio.sleep(max(backoff - (self.parts.clock.monotonic() - began), 0.0))

    async def _round(self) -> None:
        """Do one round, or sign the checkpoint anew when the log has been idle for long."""
        async with self._turn:
            log, metrics = self.log, self.parts.metrics
            metrics.set("mtc_pool_entries", log.waiting)
            profile = self.parts.folder.config.profile
            age = self.parts.clock.now().timestamp() - log.record.timestamp
            is_refresh = age >= profile.refresh_interval.total_seconds() or await self._has_newcomers()
            before, began = log.record.tree_size, self.parts.clock.monotonic()
            try:
                signed = await log.run_round(is_refresh=is_refresh)
            except Error:
                metrics.count("mtc_sequencer_rounds_total", result="failed")
                raise
            if signed is None:
                return
            seconds, entries = self.parts.clock.monotonic() - began, log.record.tree_size - before
        metrics.count("mtc_sequencer_rounds_total", result="ok" if entries else "refresh")
        metrics.count("mtc_sequencer_entries_total", entries)
        metrics.observe("mtc_sequencer_round_seconds", seconds)
        metrics.observe("mtc_sequencer_round_entries", entries)
        record = log.record
        if entries:
            self.last_round = (before, record.tree_size)
            self.rates.note(entries, self.parts.clock.monotonic())
        metrics.set("mtc_log_tree_size", record.tree_size, log=record.log_number)
        metrics.set("mtc_log_checkpoint_timestamp_seconds", record.timestamp, log=record.log_number)
        _LOG.info("round", log=record.log_number, entries=entries, tree_size=record.tree_size, ms=round(seconds * 1e3))

    async def _has_newcomers(self) -> bool:
        """Tell whether a cosigner has not signed the published checkpoint: a new one, or one that was away for a while.

        An idle log would not show itself to it for long. Looked at after the start, and then less and less often.
        """
        pool, now = self.parts.pool, self.parts.clock.monotonic()
        if pool is None or not self.log.record.tree_size or now < self._look_at:
            return False
        key = f"{public_prefix(self.log.record.log_number)}checkpoint"
        (data,) = await self.parts.storage.objects.fetch([key])
        there = set() if data is None else {(line.name, line.key_id) for line in parse_note(data).signatures}
        peers = self.parts.folder.config.cosigning.peers
        is_missing = any((peer.key.name, peer.key.key_id) not in there for peer in peers)
        longest = self.parts.folder.config.profile.refresh_interval.total_seconds()
        self._look_pause_s = min(2 * self._look_pause_s, longest) if is_missing else _LATE_LOOK_S
        self._look_at = now + self._look_pause_s
        return is_missing

    async def _last_round(self) -> None:
        """Give those who wait their entries before the end."""
        async with self._turn:
            while self.log.waiting and await self.log.run_round() is not None:
                pass

    async def _landmark(self) -> None:
        """Allocate landmarks that are due, one log after the other, because the cap counts over all of them."""
        for clock in self._clocks.values():
            async with self._turn:
                planned = await clock.tick()
            self._note_landmark(planned)

    def _note_landmark(self, planned: LandmarkState | LandmarkHold) -> None:
        """Tell of a new landmark, or that there can be none for long."""
        if isinstance(planned, LandmarkHold) and planned.why in (Hold.CAP, Hold.TOO_MANY):
            until = datetime.fromtimestamp(planned.until, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
            text = f"as many landmarks as may be are active ({planned.why}); the next one comes after {until}"
            if self.trouble.get("landmark cap") != text:
                _LOG.warning("no landmark", why=str(planned.why), until=until)
            self.trouble["landmark cap"] = text
        else:
            self.trouble.pop("landmark cap", None)
        if isinstance(planned, LandmarkState):
            latest = planned.sequence.latest
            self.parts.metrics.set("mtc_landmark_latest", latest.number, log=planned.log_number)
            self.parts.metrics.set("mtc_landmark_tree_size", latest.tree_size, log=planned.log_number)
            _LOG.info("landmark", log=planned.log_number, number=latest.number, tree_size=latest.tree_size)

    async def publish_lists(self) -> None:
        """Publish revocation lists that changed or grow old."""
        await self.revocations.tick()

    async def _housekeeping(self) -> None:
        """Collect superseded partial tiles, and let the minimum serial number follow expiry."""
        collector = PartialCollector(
            self.parts.storage.objects, self.log, self.parts.folder.config.profile.partial_grace
        )
        count = await collector.run(self.parts.guard.seconds())
        if count:
            _LOG.info("collected", partial_tiles=count)

    # What clients and operators ask for.

    async def issue(self, requests: Sequence[IssuanceRequest]) -> list[Issued | Error]:
        """Certify requests; see `CertificationAuthority.issue`."""
        if self._is_stopping:
            raise Rejected(Reason.BUSY, "the CA is stopping; come again later")
        results = await self.authority.issue(requests)
        for result in results:
            if isinstance(result, Error):
                self.parts.metrics.count("mtc_issue_refused_total", reason=str(result.reason))
        self.parts.metrics.count(
            "mtc_issued_total", sum(isinstance(item, Issued) for item in results), form="standalone"
        )
        return results

    async def upgrade(self, standalone: bytes) -> dict[str, object]:
        """Return the landmark-relative certificate for a standalone one, PEM, or when to ask again."""
        config = self.parts.folder.config
        chains = parse_certificate_chains(standalone, config.revision, strict=False)
        if len(chains) != 1:
            raise FormatError(Reason.BAD_PEM, "give exactly one certificate, PEM")
        certificate = Certificate.parse(chains[0].certificates[0])
        try:
            upgraded = await self.authority.upgrade(certificate, certificate.spki)
        except Rejected as error:
            due = error.facts.get("next_due")
            if error.reason is not Reason.NO_LANDMARK or not isinstance(due, int):
                raise
            wait = max(due - self.parts.clock.now().timestamp(), 0.0)
            return {"retry_after_s": round(wait + 0.5), "detail": error.message}
        self.parts.metrics.count("mtc_issued_total", form="landmark")
        return {"certificate": upgraded.pem, "landmark": upgraded.landmark}

    def minimum_index(self, log_number: int) -> int:
        """Return below which index a log publishes nothing any more; 0 where pruned data stays served."""
        if self.parts.folder.config.pruning == "keep":
            return 0
        if log_number == self.state.current_log:
            return self.log.record.minimum_index
        record = self._closed.get(log_number)
        return 0 if record is None else record.minimum_index

    async def plan_pruning(self, record: LogRecord) -> PruningPlan:
        """Return how far a log may be pruned."""
        return plan_pruning(
            record.log_number,
            record.minimum_index,
            record.tree_size,
            self._clocks[record.log_number].state.marks,
            self.revocations.published_minimum,
            await self._cosigned_sizes(record.log_number),
            self.parts.clock.now(),
            self.parts.folder.config.profile.retention,
        )

    async def _cosigned_sizes(self, log_number: int) -> list[tuple[str, int]]:
        """Return how much of a log each cosigner has; one that never said so has nothing, and holds everything back."""
        if self.parts.cosigners is None:
            return []
        views = await self.parts.cosigners.fetch_views(log_number)
        sizes = {view.name: view.tree_size for view in views}
        for status in self.parts.pool.describe(log_number) if self.parts.pool else ():
            sizes.setdefault(status.name, status.tree_size or 0)
        return list(sizes.items())

    async def prune(self, *, is_dry_run: bool) -> dict[str, object]:
        """Prune every log by the CA's policy, or say what would go."""
        async with self._turn:
            answers = [await self._prune_log(record, is_dry_run=is_dry_run) for record in self._records()]
        return {"dry_run": is_dry_run, "policy": self.parts.folder.config.pruning, "logs": answers}

    def _records(self) -> list[LogRecord]:
        """Return the records of all logs, the current one last."""
        return [*self._closed.values(), self.log.record]

    async def _prune_log(self, record: LogRecord, *, is_dry_run: bool) -> dict[str, object]:
        """Prune one log. The minimum index rises first, so that what a crash leaves is promised to nobody."""
        plan = await self.plan_pruning(record)
        storage, deleted = self.parts.storage, 0
        if not is_dry_run and plan.minimum_index > plan.before:
            if record.log_number == self.state.current_log:
                await self.log.set_minimum_index(plan.minimum_index)
            else:
                after = replace(record, minimum_index=plan.minimum_index)
                await storage.register.swap(f"log-{record.log_number}", record.encode(), after.encode())
                self._closed[record.log_number] = after
            if self.parts.folder.config.pruning == "delete":
                deleted = await delete_pruned(storage.objects, plan.log_number, plan.before, plan.minimum_index)
            _LOG.info("pruned", log=plan.log_number, minimum_index=plan.minimum_index, deleted=deleted)
        return describe_pruning(plan, deleted)

    async def roll_over(self, reason: str, operator: str, *, is_abandoned: bool) -> dict[str, object]:
        """Close the current log and go on in the next; see `begin_next_log`. Those who wait move over."""
        async with self._turn:
            request = Rollover(reason, operator, is_abandoned=is_abandoned)
            old = self.log
            state, incident = await begin_next_log(self.parts, self.state, request, old)
            successor = await self.parts.open_log(state.current_log)
            self._clocks = await self.parts.open_all_landmarks(state.current_log)
            self._closed[old.record.log_number] = old.record
            self.state, self.log, self.authority.log = state, successor, successor
            moved = old.hand_over(successor)
        return {"old_log": incident.old_log, "new_log": incident.new_log, "incident": incident.number, "moved": moved}

    async def revoke(self, document: Mapping[str, object]) -> dict[str, object]:
        """Revoke serial numbers or ranges; published on return."""
        async with self._turn:
            return await self.revocations.revoke(document)

    def read_tokens(self) -> list[str]:
        """Return the hashes of the tokens that may issue."""
        return self.parts.folder.read_tokens()


@asynccontextmanager
async def open_ca(
    path: Path,
    *,
    clock: Clock | None = None,
    cosigners: CosignatureSource | None = None,
    passphrase_file: str | None = None,
    rollover: "Rollover | None" = None,
) -> AsyncIterator[RunningCA]:
    """Open a CA's folder, start its signer, finish what a crash left unfinished, and close everything at the end.

    passphrase_file: of the key, before what the configuration says. rollover: go on in the next log, before the current
    one is opened if it is abandoned, because then it may be past opening. Raises UsageError for a folder that is wrong,
    StorageError when another process has it, ConflictError when storage contradicts the register, PeerError.
    """
    folder = CAFolder.read(path)
    config = folder.config
    moment = clock or SystemClock()
    guard = ClockGuard(moment, config.profile.max_skew.total_seconds())
    async with contextlib.AsyncExitStack() as stack:
        storage = folder.open_storage()
        stack.callback(storage.close)
        if config.signer_socket is not None:
            client = SignerClient(path / config.signer_socket)
        else:
            secret = passphrase_file or config.passphrase_file
            client = (await stack.enter_async_context(SignerProcess(folder.signer, passphrase_file=secret))).client()
        stack.callback(client.close)
        public_key = folder.certificate.public_key.public_key
        hasher = active_kernel().hasher(config.profile.hash_name)
        parts = CAParts(
            folder,
            storage,
            moment,
            guard,
            hasher,
            client,
            CATreeSigner(config.ca_id, public_key, client),
            VerifierKey.from_spki(config.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, public_key),
            cosigners,
        )
        if cosigners is None and config.cosigning.peers:
            pool = await stack.enter_async_context(open_pool(parts))
            parts = replace(parts, cosigners=pool, pool=pool)
        state = await prepare_storage(folder, storage)
        if rollover is not None:
            old = None if rollover.is_abandoned else await parts.open_log(state.current_log)
            state, _ = await begin_next_log(parts, state, rollover, old)
        log = await parts.open_log(state.current_log)
        stack.push_async_callback(log.close)
        if log.record.is_closed:
            raise ConflictError(
                Reason.CONFLICT,
                f"log {state.current_log} is closed and the next one was not begun; go on with: mtc ca rollover",
                log=state.current_log,
            )
        landmarks = await parts.open_all_landmarks(state.current_log)
        ca = RunningCA(parts, state, log, landmarks, await parts.read_closed(state.current_log))
        ca.revocations = await RevocationPublisher.open(parts)
        yield ca


def open_pool(parts: CAParts) -> CosignerPool:
    """Return the pool of a CA's configured cosigners, not yet open. Raises UsageError for one with the CA's own key."""
    config, storage = parts.folder.config, parts.storage
    keeper = EvidenceKeeper(storage.objects)

    async def find_head(log_number: int) -> TreeHead | None:
        data = await storage.register.read(f"log-{log_number}")
        record = None if data is None else LogRecord.parse(data)
        return None if record is None else TreeHead(record.tree_size, record.root_hash)

    async def keep(evidence: Evidence) -> str | None:
        return await keeper.keep(evidence, parts.clock.now(), f"CA {config.ca_id}")

    return CosignerPool(
        config.cosigning,
        config.ca_id,
        parts.key,
        parts.hasher,
        storage.objects,
        find_head,
        parts.clock,
        keep,
        parts.metrics,
    )


def lint_rules(folder: CAFolder) -> LintRules:
    """Return the lint's rules for a CA; its own key is never certified."""
    config = folder.config
    profile = config.profile
    rules = (LintRules.web_pki if profile.is_public else LintRules.private)(config.ca_id, config.revision)
    own = hashlib.sha256(folder.certificate.public_key.public_key).digest()
    return replace(
        rules,
        hash_name=profile.hash_name,
        max_lifetime=profile.max_lifetime,
        blocked_keys=rules.blocked_keys | {own},
    )


def _crl_url(prefix_url: str | None) -> str | None:
    """Return where the CRL is."""
    return None if prefix_url is None else f"{prefix_url}/ca.crl"


@dataclass(frozen=True, slots=True)
class Rollover:
    """What an operator says when a log cannot go on. is_abandoned: a decided round cannot be finished, and is left."""

    reason: str
    operator: str
    is_abandoned: bool = False


async def begin_next_log(
    parts: CAParts, state: CAState, request: Rollover, old: IssuanceLog | None
) -> tuple[CAState, Incident]:
    """Close the current log and make the next one current: an incident, with a record. Nothing does so by itself.

    old: the current log if it is open; without it only its record in the register is closed. Order and crash meaning:
    the old log is closed; the next one is made; the record of the incident is written; the register names the next log.
    A crash before the last step leaves a closed log that is still current: nothing is issued, and the same request goes
    on. Raises UsageError without a reason or a next log, and what closing and opening raise.
    """
    after = plan_rollover(state, parts.folder.config.profile, request.reason)
    register = parts.storage.register
    if old is not None:
        await old.close_for_good(is_abandoned=request.is_abandoned)
        record = old.record
    else:
        record = await close_abandoned_log(parts.storage.objects, register, parts.tree_signer, state.current_log)
    successor = await parts.open_log(after.current_log)
    await successor.close()
    incident = Incident(
        number=after.incidents,
        time=parts.clock.now().isoformat(timespec="seconds"),
        old_log=record.log_number,
        new_log=after.current_log,
        reason=request.reason.strip(),
        tree_size=record.tree_size,
        root_hash=record.root_hash.hex(),
        timestamp=record.timestamp,
        is_abandoned=request.is_abandoned,
        operator=request.operator,
    )
    await parts.storage.objects.replace({incident.key: incident.encode()})
    await register.swap(STATE_NAME, state.encode(), after.encode())
    _LOG.warning("rollover", old_log=incident.old_log, new_log=incident.new_log, reason=incident.reason)
    return after, incident


def describe_pruning(plan: PruningPlan, deleted: int) -> dict[str, object]:
    """Return a plan for scripts."""
    return {
        "log": plan.log_number,
        "before": plan.before,
        "minimum_index": plan.minimum_index,
        "objects": plan.objects,
        "deleted": deleted,
        "limits": [{"index": limit.index, "why": limit.why} for limit in plan.limits],
    }
