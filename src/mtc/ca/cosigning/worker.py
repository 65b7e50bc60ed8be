"""One cosigner of a CA: at most one piece of work at a time, always about the newest tree that it was offered.

A witness is shown the checkpoint and then asked for the subtrees; a mirror gets the entries in between. A cosigner that
is slow costs itself alone: while it is busy with one tree, others that come meanwhile are passed over, except the last.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from mtc.ca.cosigning.answers import SignedHash, TreeAnswers
from mtc.ca.cosigning.findings import (
    KeepEvidence,
    bad_signature,
    check_own_signature,
    contradiction,
    other_history,
    rolled_back,
)
from mtc.ca.metrics import CAMetrics
from mtc.ca.proofs import TreeHead
from mtc.cosign.config import Role
from mtc.cosign.evidence import Evidence
from mtc.cosign.service.client import CosignerClient, SeenCheckpoint, StaleSize
from mtc.cosign.service.uploading import upload_entries
from mtc.cosign.upload import MirrorInfo
from mtc.errors import ConflictError, Error, PeerError, Reason, SignatureError, StorageError
from mtc.merkle import Hasher
from mtc.note import NoteSignature, VerifierKey
from mtc.web.clock import Clock
from mtc.web.logs import open_logger

_LOG = open_logger("cosigners")
_TRIES = 4
"""How often a cosigner may name another size, because others show it checkpoints as well."""
_AT_ONCE = 4
"""Subtrees that are asked for at once; a round has at most two, those that are owed may be more."""
_REST_S, _LONGEST_REST_S = 1.0, 60.0
_UNPROCESSABLE = 422


@dataclass(frozen=True, slots=True)
class PoolParts:
    """What the workers of a pool share.

    key: of the CA. grace_s: see `QuorumTable.grace`. newest: the newest tree of a log that was offered to anybody.
    """

    hasher: Hasher
    key: VerifierKey
    clock: Clock
    keep: KeepEvidence
    metrics: CAMetrics
    grace_s: float
    newest: Callable[[int], TreeAnswers]


@dataclass(slots=True)
class CosignerFacts:
    """What is known of a cosigner, for people and metrics.

    sizes: by log, the size that it cosigned last, or its word for it. seen: when it last answered rightly. latency_s:
    of the last piece of work that succeeded. trouble: what is wrong. lies: how often it answered what its own key
    disowns. failures: in a row.
    """

    sizes: dict[int, int]
    seen: datetime | None = None
    latency_s: float | None = None
    trouble: str = ""
    lies: int = 0
    failures: int = 0


class CosignerWorker:
    """Does what a pool asks of one cosigner. Owned by one event loop."""

    def __init__(self, client: CosignerClient, parts: PoolParts) -> None:
        """Start idle."""
        self.peer = client.peer
        self.client = client
        self.facts = CosignerFacts({})
        self._parts = parts
        self._task: asyncio.Task[None] | None = None
        self._current: TreeAnswers | None = None
        self._next: TreeAnswers | None = None
        # The first entry that a mirror lacks, by log, as far as it said.
        self._missing: dict[int, int] = {}
        self._rests_until = 0.0

    def must_rest(self) -> bool:
        """Tell whether a witness failed so recently that it is not worth asking. Every mirror is always asked."""
        return self.peer.role is Role.WITNESS and self._parts.clock.monotonic() < self._rests_until

    def is_busy_with(self, answers: TreeAnswers) -> bool:
        """Tell whether something about a tree may still come."""
        return answers in (self._current, self._next)

    def is_expected(self, answers: TreeAnswers) -> bool:
        """Tell whether something about a tree may well come soon: it is asked now, and it answered the last time."""
        return self._current is answers and not self.facts.failures

    def offer(self, answers: TreeAnswers) -> None:
        """Ask about a tree, now or as soon as what is under way ends. Only the newest of the waiting ones counts."""
        if self._current is answers:
            return
        self._next = answers
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"cosigner {self.peer.name}")

    async def idle(self, timeout_s: float | None = None) -> None:
        """Wait until nothing is under way, at most so long."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout_s)

    async def close(self, grace_s: float) -> None:
        """Let the work under way end within a time, then end it."""
        self._next = None
        await self.idle(grace_s)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        """Work until nothing is offered."""
        while self._next is not None:
            self._current, self._next = self._next, None
            answers = self._current
            began = self._parts.clock.monotonic()
            try:
                await self._ask(answers)
                self._note_success(self._parts.clock.monotonic() - began)
            except StorageError as error:
                answers.fault = error
            except ConflictError as error:
                # It is the newest round's affair, whichever tree brought it up.
                answers.conflict = self._parts.newest(answers.tree.log_number).conflict = error
                self._parts.newest(answers.tree.log_number).changed.set()
            except Error as error:
                if isinstance(error, SignatureError):
                    await self.keep_lie(answers.checkpoint.origin, error)
                self._note_failure(answers, error)
            except Exception as error:  # noqa: BLE001 - one cosigner's answer must not end the others' round
                _LOG.error("failed", cosigner=self.peer.name, error=repr(error), exc_info=error)
                self._note_failure(answers, PeerError(Reason.PEER, f"{self.peer.name}: {error!r}"))
            finally:
                self._current = None
                answers.changed.set()

    async def _ask(self, answers: TreeAnswers) -> None:
        """Ask for whatever is lacking: the checkpoint first, then the subtrees."""
        name, newest = self.peer.name, self._parts.newest
        lines = answers.lines.get(name)
        if lines is None:
            lines = await (self._mirror(answers) if self.peer.role is Role.MIRROR else self._witness(answers))
            answers.lines[name] = lines
            answers.failures.pop(name, None)
            self._parts.metrics.set(
                "mtc_cosigner_tree_size", answers.tree.tree_size, cosigner=name, log=answers.tree.log_number
            )
            answers.changed.set()
        late_by = 0.0 if answers.finished_at is None else self._parts.clock.monotonic() - answers.finished_at
        if late_by > self._parts.grace_s and newest(answers.tree.log_number) is not answers:
            # Nobody waits for these any more; what is still owed, the newest tree asks for.
            return
        await self._sign_subtrees(answers, lines)

    async def _sign_subtrees(self, answers: TreeAnswers, lines: tuple[NoteSignature, ...]) -> None:
        """Ask for signatures over the subtrees, a few at a time."""
        wanted = answers.wanted_of(self.peer)
        note = answers.note.with_signatures(*lines).encode()

        async def sign(item: SignedHash, proof: tuple[bytes, ...]) -> None:
            try:
                signature = await self.client.sign_subtree(*item, proof, note)
            except SignatureError as error:
                await self.keep_lie(answers.checkpoint.origin, error, item)
                raise
            answers.subtrees.add(item, self.peer.name, signature)
            answers.changed.set()

        for at in range(0, len(wanted), _AT_ONCE):
            some = wanted[at : at + _AT_ONCE]
            proofs = await answers.published.prove_subtrees([subtree for subtree, _ in some])
            results = await asyncio.gather(*map(sign, some, proofs), return_exceptions=True)
            for result in results:
                if result is not None:
                    raise result

    async def _witness(self, answers: TreeAnswers) -> tuple[NoteSignature, ...]:
        """Return a witness's lines over the checkpoint."""
        return await self._add_checkpoint(answers)

    async def _mirror(self, answers: TreeAnswers) -> tuple[NoteSignature, ...]:
        """Bring a mirror the entries that it lacks, and return its lines over the checkpoint."""
        tree, missing = answers.tree, self._missing
        number = tree.log_number

        def tell(position: int) -> None:
            missing[number] = position

        for _ in range(_TRIES):
            await self._add_checkpoint(answers)
            start = missing.get(number, tree.start)
            # If no answer comes, part of it may have been stored: an empty upload asks where the mirror stands then.
            missing[number] = tree.tree_size
            outcome = await upload_entries(self.client, answers.checkpoint, start, answers.published, tell)
            if not isinstance(outcome, MirrorInfo):
                missing[number] = tree.tree_size
                return outcome
            if outcome.tree_size > tree.tree_size:
                await self._explain(answers, outcome.tree_size)
            # It has forgotten this checkpoint, because it was started from an older state, or others showed it many.
            missing[number] = outcome.next_entry
        raise self._wrong("wants entries for another checkpoint each time")

    async def _add_checkpoint(self, answers: TreeAnswers) -> tuple[NoteSignature, ...]:
        """Show a cosigner the checkpoint, with the proof from wherever it stands."""
        tree, sizes = answers.tree, self.facts.sizes
        number, size = tree.log_number, tree.tree_size
        note = answers.note.encode()
        known = min(sizes.get(number, tree.start), size)
        for _ in range(_TRIES):
            proof = await answers.published.prove_growth(known)
            try:
                answer = await self.client.add_checkpoint(known, proof, note)
            except PeerError as error:
                if error.facts.get("status") == _UNPROCESSABLE:
                    # The proof was right, so it stands on another tree than ours, or is broken.
                    await self._explain(answers, known, error)
                raise
            if not isinstance(answer, StaleSize):
                sizes[number] = size
                return answer
            if answer.tree_size > size:
                await self._explain(answers, answer.tree_size)
            if answer.tree_size == known:
                raise self._wrong(f"says that its last checkpoint has {known} entries, and refuses a proof from there")
            known = answer.tree_size
        raise self._wrong("names another size of its last checkpoint each time")

    async def _explain(self, answers: TreeAnswers, claimed: int, error: Error | None = None) -> None:
        """Find out why a cosigner does not follow: raises ConflictError with our own signature on another history.

        Otherwise raises PeerError: what it claims, it cannot show. error: what it said, if that says more.
        """
        newest = self._parts.newest(answers.tree.log_number)
        if answers.tree.tree_size < claimed <= newest.tree.tree_size:
            raise PeerError(Reason.SUPERSEDED, f"{self.peer.name} has a newer checkpoint already")
        seen = await self.client.fetch_checkpoint(answers.checkpoint.origin)
        if seen is not None:
            check_own_signature(self._parts.key, self.peer, seen)
            await self.compare(seen, newest)
        if error is not None:
            raise error
        shown = "no checkpoint" if seen is None else f"one of {seen.checkpoint.tree_size} entries"
        raise self._wrong(f"claims a checkpoint of {claimed} entries, and shows {shown}")

    async def compare(self, seen: SeenCheckpoint, newest: TreeAnswers) -> None:
        """Compare what a cosigner shows, with our signature, with our newest tree. Raises ConflictError."""
        size, head = seen.checkpoint.tree_size, newest.published.head
        if size > head.tree_size:
            raise await self.accuse(seen, head, newest.tree.log_number)
        if seen.checkpoint.root_hash == await newest.published.root_at(size):
            return
        parts = self._parts
        evidence = await other_history(parts.hasher, parts.key, seen, newest.note, newest.published)
        name = await self._keep(evidence)
        raise contradiction(self.peer, newest.tree.log_number, f"shows another root hash at {size} entries", name)

    async def accuse(self, seen: SeenCheckpoint, head: TreeHead, log_number: int) -> ConflictError:
        """Keep the evidence that our key signed more than the register knows, and return the error."""
        parts = self._parts
        name = await self._keep(rolled_back(parts.key, self.peer, seen, head, parts.hasher.name))
        size = seen.checkpoint.tree_size
        what = f"shows a checkpoint of {size} entries where the register knows {head.tree_size}"
        return contradiction(self.peer, log_number, what, name)

    async def keep_lie(self, origin: str, error: SignatureError, asked: SignedHash | None = None) -> None:
        """Keep a signature in the cosigner's name that fails; what the error carried is not needed any more.

        asked: the subtree that it was asked to sign, None for a checkpoint.
        """
        evidence = bad_signature(self.peer, origin, error, asked, self._parts.hasher.name)
        carried = [error.facts.pop(fact, None) for fact in ("note", "lines")]
        self.facts.lies += any(carried)
        if evidence is not None:
            error.facts["evidence"] = await self._keep(evidence)

    async def _keep(self, evidence: Evidence) -> str | None:
        """Keep evidence. That it cannot be kept changes nothing of what it shows."""
        try:
            return await self._parts.keep(evidence)
        except Error as error:
            _LOG.error("evidence lost", kind=evidence.kind, reason=str(error.reason), error=error.message)
            return None

    def _wrong(self, what: str) -> PeerError:
        """Make the error for a cosigner that contradicts itself."""
        return PeerError(Reason.PEER, f"{self.peer.role} {self.peer.name} {what}", cosigner=self.peer.name)

    def _note_success(self, seconds: float) -> None:
        """Remember that a cosigner is well."""
        facts, metrics = self.facts, self._parts.metrics
        if facts.trouble:
            _LOG.info("cosigner is back", cosigner=self.peer.name)
        facts.seen, facts.latency_s, facts.trouble, facts.failures = self._parts.clock.now(), seconds, "", 0
        metrics.count("mtc_cosigner_requests_total", cosigner=self.peer.name, outcome="ok")
        metrics.observe("mtc_cosigner_seconds", seconds, cosigner=self.peer.name)
        metrics.set("mtc_cosigner_up", 1, cosigner=self.peer.name)

    def _note_failure(self, answers: TreeAnswers, error: Error) -> None:
        """Remember why there is no answer."""
        facts, parts = self.facts, self._parts
        if error.reason is Reason.SUPERSEDED:
            return
        answers.failures[self.peer.name] = error
        if facts.trouble != error.message:
            _LOG.warning("no answer", cosigner=self.peer.name, reason=str(error.reason), error=error.message)
        facts.trouble = error.message
        facts.failures += 1
        rest = min(_REST_S * 2 ** min(facts.failures - 1, 10), _LONGEST_REST_S)
        self._rests_until = parts.clock.monotonic() + rest
        parts.metrics.count("mtc_cosigner_requests_total", cosigner=self.peer.name, outcome=str(error.reason))
        parts.metrics.set("mtc_cosigner_up", 0, cosigner=self.peer.name)
