"""All cosigners of a CA: asked at once in every round, until those who answered are enough.

A round ends with the first answers that satisfy the policy. The others go on in the background, one piece of work each,
so that a mirror that is behind gets its entries while rounds pass; what they answer for a tree that is not finished
yet, or for subtrees that are still owed, is kept for the next time they are asked for.

What a cosigner says against us counts when our own key signed it; then nothing is signed any more. See
`mtc.ca.cosigning.findings`.

Spec: Merkle Tree Certificates, "Cosigners"; C2SP tlog-witness, tlog-mirror.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from mtc.ca.cosigning.answers import Policy, SubtreeAnswers, TreeAnswers
from mtc.ca.cosigning.config import DEFAULT_GRACE, CosigningConfig
from mtc.ca.cosigning.findings import KeepEvidence, check_own_signature
from mtc.ca.cosigning.published import PublishedTree
from mtc.ca.cosigning.worker import CosignerWorker, PoolParts
from mtc.ca.metrics import CAMetrics
from mtc.ca.proofs import LogReader, TreeHead
from mtc.ca.status import CosignerStatus
from mtc.cosign.service.client import MAX_AHEAD_S, CosignerClient, CosignerPeer, SeenCheckpoint
from mtc.errors import Error, Reason, SignatureError, UsageError
from mtc.ids import TrustAnchorID, log_id
from mtc.log.formats import public_prefix
from mtc.log.seams import CosignerView, NoQuorumError, SignedTree, TreeToSign
from mtc.merkle import Hasher
from mtc.note import Note, VerifierKey, parse_note
from mtc.store import ObjectStore
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.clock import Clock
from mtc.web.logs import open_logger

_LOG = open_logger("cosigners")
_CONNECTIONS = 6
"""Open connections per cosigner: one for each request that it may have under way, and one to look at its view."""

Heads = Callable[[int], Awaitable[TreeHead | None]]
"""Tells the tree that the register holds of a log; None for a log that it does not know."""


class CosignerPool:
    """`CosignatureSource` of a CA. Use as an async context manager.

    heads: what the register says, to compare views with. keep: where evidence goes.
    """

    def __init__(  # noqa: PLR0913 - the seams of a pool
        self,
        config: CosigningConfig,
        ca_id: TrustAnchorID,
        key: VerifierKey,
        hasher: Hasher,
        store: ObjectStore,
        heads: Heads,
        clock: Clock,
        keep: KeepEvidence,
        metrics: CAMetrics,
    ) -> None:
        """Take the parts; nothing is opened yet. Raises UsageError for a cosigner with the CA's own key."""
        for peer in config.peers:
            check_not_own(peer, key)
        self._ca_id = ca_id
        self._key = key
        self._hasher = hasher
        self._store = store
        self._heads = heads
        self._clock = clock
        self._metrics = metrics
        grace = DEFAULT_GRACE if config.rule.grace is None else config.rule.grace
        self._grace_s = grace.total_seconds()
        self._policy = Policy(config.peers, config.quorum)
        longest = max((peer.deadline_s for peer in config.peers), default=0.0)
        self._patience_s = longest
        self._http = HTTPClient(
            ClientLimits(
                attempts=2, pause_s=0.05, attempt_s=longest, connections=_CONNECTIONS * max(len(config.peers), 1)
            ),
            user_agent="mtc-ca",
        )
        parts = PoolParts(hasher, key, clock, keep, metrics, self._grace_s, self._newest)
        now = self._now
        self.workers = tuple(CosignerWorker(CosignerClient(peer, self._http, now), parts) for peer in config.peers)
        # The newest tree of each log that was to be cosigned, and what is kept of each log.
        self._trees: dict[int, TreeAnswers] = {}
        self._subtrees: dict[int, SubtreeAnswers] = {}
        self._readers: dict[int, LogReader] = {}

    @property
    def quorum(self) -> str:
        """The rule, for people."""
        return str(self._policy.quorum)

    async def __aenter__(self) -> Self:
        """Open the connections."""
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let what is under way end within the grace, and close."""
        await asyncio.gather(*(worker.close(self._grace_s) for worker in self.workers))
        for answers in self._trees.values():
            answers.published.close()
        await self._http.__aexit__(kind, error, trace)

    async def idle(self) -> None:
        """Wait until nobody is asked for anything any more."""
        await asyncio.gather(*(worker.idle() for worker in self.workers))

    async def cosign(self, tree: TreeToSign, signed: SignedTree) -> SignedTree:
        """Return the tree with cosignatures that satisfy the policy; see `CosignatureSource`."""
        if not tree.tree_size:
            # Nothing is in it that anybody could rely on, and not every witness takes an empty tree.
            return signed
        answers = self._take(tree, signed)
        began = self._clock.monotonic()
        self._offer(answers)
        nudge = asyncio.get_running_loop().call_later(self._grace_s, self._wake_resting, answers)
        try:
            await self._wait(answers)
        finally:
            nudge.cancel()
        if answers.conflict is not None:
            raise answers.conflict
        self._metrics.observe("mtc_quorum_wait_seconds", self._clock.monotonic() - began)
        self._metrics.set("mtc_quorum_missing", len(self.workers) - len(self._policy.counted(answers)))
        complete = self._policy.assemble(answers, signed)
        if self._policy.is_met(answers):
            answers.finished_at = self._clock.monotonic()
            return complete
        if answers.fault is not None:
            raise answers.fault
        raise NoQuorumError(
            Reason.NO_QUORUM,
            f"log {tree.log_number} lacks cosignatures at {tree.tree_size} entries: it needs "
            f"{self._policy.missing(answers)}. {self._excuses(answers)}",
            signed=complete,
            log=tree.log_number,
            tree_size=tree.tree_size,
        )

    def _take(self, tree: TreeToSign, signed: SignedTree) -> TreeAnswers:
        """Return what is known about a tree, from now on the newest one of its log."""
        number = tree.log_number
        subtrees = self._subtrees.setdefault(number, SubtreeAnswers())
        subtrees.keep_only((*tree.subtrees, *tree.owed))
        before = self._trees.get(number)
        if before is not None and before.is_about(tree):
            before.tree = replace(tree, start=before.tree.start, entries=before.tree.entries)
            before.fault = None
            return before
        note = parse_note(signed.checkpoint)
        own = tuple(line for line in note.signatures if line.name == self._key.name)
        published = PublishedTree(self._hasher, self._store, self._reader(number), tree)
        answers = TreeAnswers(tree, Note(note.text, own), published, subtrees)
        if before is not None:
            answers.conflict = before.conflict
        self._trees[number] = answers
        return answers

    def _offer(self, answers: TreeAnswers) -> None:
        """Ask everybody who has not answered; those who failed just now only when it does not work without them."""
        lacking = [worker for worker in self.workers if answers.lacks(worker.peer)]
        resting = [worker for worker in lacking if worker.must_rest()]
        asked = [worker for worker in lacking if worker not in resting]
        if not self._policy.can_be_met(answers, [worker.peer.name for worker in asked]):
            asked = lacking
        for worker in asked:
            answers.failures.pop(worker.peer.name, None)
            worker.offer(answers)

    def _wake_resting(self, answers: TreeAnswers) -> None:
        """Ask those who rest when it is not enough after the grace: they may be back, and others may be gone."""
        if answers.conflict is None and not self._policy.is_met(answers):
            for worker in self.workers:
                if worker.must_rest() and answers.lacks(worker.peer):
                    worker.offer(answers)

    async def _wait(self, answers: TreeAnswers) -> None:
        """Wait until it is enough, or nobody may answer any more, or the longest deadline has passed.

        Where it takes one that failed the last time, or is busy with an older tree, only the grace is waited: what it
        answers later is kept, and the log asks again.
        """
        policy = self._policy
        # A round that brings entries does not wait for what earlier ones are owed; an idle log has time for it.
        is_idle = not answers.tree.subtrees
        await asyncio.sleep(0)
        expected = [worker.peer.name for worker in self.workers if worker.is_expected(answers)]
        is_hopeful = policy.can_be_met(answers, expected)
        try:
            async with asyncio.timeout(self._patience_s if is_hopeful else self._grace_s):
                while answers.conflict is None and answers.fault is None:
                    if policy.is_met(answers) and (not is_idle or policy.is_owed_met(answers)):
                        return
                    busy = [worker.peer.name for worker in self.workers if worker.is_busy_with(answers)]
                    if not busy or not policy.can_be_met(answers, busy):
                        return
                    answers.changed.clear()
                    await answers.changed.wait()
        except TimeoutError:
            return

    def _excuses(self, answers: TreeAnswers) -> str:
        """Say why those are missing who are."""
        told = []
        for peer in self._policy.peers:
            if answers.lacks(peer):
                failure = answers.failures.get(peer.name)
                told.append(f"{peer.name} has not answered yet" if failure is None else failure.message)
        return "; ".join(told)

    async def fetch_views(self, log_number: int) -> Sequence[CosignerView]:
        """Return the views of those who answer, each with our own signature or of nothing; see `CosignatureSource`.

        Once those who answered would be a quorum, the others have the grace. A view beyond the register is kept as
        evidence. One whose time lies ahead of this clock is left out, unless most of them say the same.
        """
        origin = log_id(self._ca_id, log_number).oid_name
        tasks = {asyncio.create_task(self._view(worker, log_number, origin)): worker for worker in self.workers}
        try:
            await self._gather_views(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        found = [
            (worker, task.result())
            for task, worker in tasks.items()
            if not task.cancelled() and task.exception() is None
        ]
        views = [(worker, view) for worker, view in found if view is not None]
        limit = self._now() + MAX_AHEAD_S
        ahead = [worker for worker, view in views if view.timestamp > limit]
        if 2 * len(ahead) <= len(views):
            for worker in ahead:
                worker.facts.trouble = "its clock is ahead of this one's"
            views = [(worker, view) for worker, view in views if worker not in ahead]
        return [view for _, view in views]

    async def _gather_views(self, tasks: dict["asyncio.Task[CosignerView | None]", CosignerWorker]) -> None:
        """Wait for the views."""
        waiting, timeout = set(tasks), None
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return
            names = {worker.peer.name for task, worker in tasks.items() if task.done() and task.result() is not None}
            if timeout is None and self._policy.quorum.is_satisfied(names):
                timeout = self._grace_s

    async def _view(self, worker: CosignerWorker, log_number: int, origin: str) -> CosignerView | None:
        """Return what one cosigner says about a log; None when it says nothing that counts."""
        name = worker.peer.name
        try:
            seen = await worker.client.fetch_checkpoint(origin)
            if seen is None:
                return CosignerView(name, 0, self._hasher.empty, 0)
            check_own_signature(self._key, worker.peer, seen)
        except Error as error:
            if isinstance(error, SignatureError):
                await worker.keep_lie(origin, error)
            worker.facts.trouble = error.message
            _LOG.warning("no view", cosigner=name, log=log_number, reason=str(error.reason), error=error.message)
            return None
        worker.facts.seen = self._clock.now()
        worker.facts.sizes.setdefault(log_number, seen.checkpoint.tree_size)
        await self._compare_with_register(worker, log_number, seen)
        return CosignerView(name, seen.checkpoint.tree_size, seen.checkpoint.root_hash, seen.timestamp)

    async def _compare_with_register(self, worker: CosignerWorker, log_number: int, seen: SeenCheckpoint) -> None:
        """Keep the evidence when a view is beyond what the register holds; the log itself refuses to go on then."""
        head = await self._heads(log_number)
        if head is not None and seen.checkpoint.tree_size > head.tree_size:
            error = await worker.accuse(seen, head, log_number)
            _LOG.error("rolled back", cosigner=worker.peer.name, log=log_number, error=error.message)

    def describe(self, log_number: int) -> tuple[CosignerStatus, ...]:
        """Return how the cosigners are, and how much of a log they have."""
        return tuple(
            CosignerStatus(
                name=worker.peer.name,
                role=str(worker.peer.role),
                tree_size=worker.facts.sizes.get(log_number),
                seen=worker.facts.seen,
                is_up=not worker.facts.trouble,
                latency_s=worker.facts.latency_s,
                note=worker.facts.trouble,
            )
            for worker in self.workers
        )

    def _newest(self, log_number: int) -> TreeAnswers:
        """Return the newest tree of a log."""
        return self._trees[log_number]

    def _reader(self, log_number: int) -> LogReader:
        """Return the reader of a log, with what it has proven so far."""
        reader = self._readers.get(log_number)
        if reader is None:
            reader = self._readers[log_number] = LogReader(self._hasher, self._store, public_prefix(log_number))
        return reader

    def _now(self) -> float:
        """Return POSIX seconds."""
        return self._clock.now().timestamp()


def check_not_own(peer: CosignerPeer, key: VerifierKey) -> None:
    """Raise UsageError for a cosigner with the CA's name or key."""
    if peer.key.public_key == key.public_key or peer.key.name == key.name:
        raise UsageError(
            Reason.DUPLICATE, f"cosigner {peer.name} has the key or the name of this CA; a cosigner is somebody else"
        )
