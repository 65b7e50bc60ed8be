"""The landmark clock of a log: it allocates when the rules allow it, and publishes what is active.

Order and crash meaning: swap the register, then publish the file. A crash between the two is finished when the clock is
opened again, by the same function. The file is always made from the register's value, never the other way round; it is
published again whenever a landmark expires, because it lists the active ones.

Spec: Merkle Tree Certificates, "Allocating Landmarks" and "Publishing Landmarks".
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mtc.ca.landmarks import (
    Hold,
    LandmarkHold,
    LandmarkRules,
    LandmarkState,
    PublishedTree,
    next_free,
    next_interval,
    plan_landmark,
)
from mtc.ca.proofs import TreeHead
from mtc.errors import ConflictError, Reason, StorageError
from mtc.landmark import MAX_EXPIRY
from mtc.log import LogRecord
from mtc.log.formats import public_prefix
from mtc.merkle import Hasher
from mtc.note import Checkpoint, VerifierKey, open_note
from mtc.store import ObjectStore, Register
from mtc.web.clock import ClockGuard


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarkLog:
    """The log whose landmarks are allocated.

    origin: first line of its checkpoints. keys: of the CA cosigner first, and of further cosigners whose timestamps are
    compared with the clock; a checkpoint without a signature of the first is not believed. others: numbers of the CA's
    other logs, whose landmarks count towards the cap.
    """

    log_number: int
    origin: str
    hasher: Hasher
    keys: Sequence[VerifierKey]
    others: Sequence[int] = ()


class LandmarkClock:
    """Allocates and publishes the landmarks of one log. Use `open`, and call `tick` about every second.

    One per log and process. Clocks of several logs of one CA must not tick at the same time, because the cap counts
    over all of them.
    """

    def __init__(  # noqa: PLR0913 - what a shell stands on
        self,
        log: LandmarkLog,
        store: ObjectStore,
        register: Register,
        clock: ClockGuard,
        rules: LandmarkRules,
        state: LandmarkState,
    ) -> None:
        """Use `open`."""
        self._log = log
        self._store = store
        self._register = register
        self._clock = clock
        self._rules = rules
        # What the register holds; changed only after it was.
        self._state = state
        # What the published file was made from; None before the first time. It is right until `_fresh_until`.
        self._published: LandmarkState | None = None
        self._fresh_until = 0
        self._head: TreeHead | None = None
        self._due = 0
        self._turn = asyncio.Lock()

    @staticmethod
    async def open(
        log: LandmarkLog, store: ObjectStore, register: Register, clock: ClockGuard, rules: LandmarkRules
    ) -> "LandmarkClock":
        """Open the landmarks of a log, begun with landmark 0 when there are none, and publish their file.

        Raises ConflictError (CLOCK) while the time is in doubt, StorageError, FormatError for a broken register value.
        """
        name = LandmarkState.name_of(log.log_number)
        data = await register.read(name)
        if data is None:
            state = LandmarkState.start(log.log_number, rules.revision)
            try:
                await register.create(name, state.encode())
            except StorageError:
                if await register.read(name) != state.encode():
                    raise
        else:
            state = LandmarkState.parse(data, rules.revision)
        opened = LandmarkClock(log, store, register, clock, rules, state)
        await opened._publish(clock.seconds())
        return opened

    @property
    def state(self) -> LandmarkState:
        """What the register holds."""
        return self._state

    @property
    def head(self) -> TreeHead | None:
        """The published tree as the last tick saw it, not smaller than any landmark; None before the first tick."""
        return self._head

    def next_due(self) -> int:
        """Return POSIX seconds from which the next landmark may come, if the log grows; for caches and progress."""
        return max(self._due, next_interval(self._state, self._rules))

    async def tick(self) -> LandmarkState | LandmarkHold:
        """Allocate a landmark if it is time, and publish the file if it changed. Returns the new state, or why not.

        Raises ConflictError: CLOCK while the time is in doubt, which ends by itself or by the operator; another reason
        when storage contradicts the register or another process moved it, which does not. StorageError: tick again.
        """
        async with self._turn:
            now = self._clock.seconds()
            tree = await self._read_tree()
            if tree is None:
                await self._publish(now)
                return LandmarkHold(Hold.NOT_PUBLISHED, now + 1)
            planned = plan_landmark(self._state, (), tree, now, self._rules)
            if isinstance(planned, LandmarkState):
                # The other logs are asked only when this one could have a landmark.
                others = await self._read_others()
                planned = plan_landmark(self._state, others, tree, now, self._rules)
                if isinstance(planned, LandmarkState):
                    await self._swap(planned)
                self._due = next_free(self._state, others, now, self._rules)
            elif planned.why is Hold.CAP:
                self._due = planned.until
            await self._publish(now)
            return planned

    async def _read_tree(self) -> PublishedTree | None:
        """Return the published tree, its signatures verified and the register's record not behind it.

        A checkpoint is published only with its quorum; the register's own tree may not be signed yet and is not used.
        """
        number = self._log.log_number
        (data,) = await self._store.fetch([f"{public_prefix(number)}checkpoint"])
        # Read after the checkpoint, so that it is not behind it.
        value = await self._register.read(f"log-{number}")
        if data is None or value is None:
            return None
        record = LogRecord.parse(value)
        note = open_note(data, self._log.keys)
        checkpoint = Checkpoint.parse(note.text, self._log.hasher.size)
        same_size = checkpoint.tree_size == record.tree_size
        if (
            not note.is_signed_by(self._log.keys[0])
            or checkpoint.origin != self._log.origin
            or checkpoint.tree_size > record.tree_size
            or (same_size and checkpoint.root_hash != record.root_hash)
        ):
            raise ConflictError(
                Reason.CONFLICT,
                f"the published checkpoint of log {number} is not of this log, or ahead of its register; no landmark "
                "is allocated",
                log=number,
            )
        timestamps = [signature.timestamp or 0 for signature in note.verified]
        self._clock.check_others(timestamps)
        self._head = TreeHead(checkpoint.tree_size, checkpoint.root_hash)
        own = next(item.timestamp or 0 for item in note.verified if item.key == self._log.keys[0])
        return PublishedTree(checkpoint.tree_size, own, record.latest_not_after)

    async def _read_others(self) -> list[int]:
        """Return when landmarks were allocated for the other logs of the CA."""
        allocations: list[int] = []
        for number in self._log.others:
            data = await self._register.read(LandmarkState.name_of(number))
            if data is not None:
                allocations += LandmarkState.parse(data, self._rules.revision).allocations
        return allocations

    async def _swap(self, state: LandmarkState) -> None:
        """Change the register. When the answer was lost, read what is true."""
        name = LandmarkState.name_of(self._log.log_number)
        old, new = self._state.encode(), state.encode()
        try:
            await self._register.swap(name, old, new)
        except StorageError:
            current = await self._register.read(name)
            if current == old:
                raise
            if current != new:
                raise self._overtaken() from None
        except ConflictError:
            raise self._overtaken() from None
        self._state = state

    async def _publish(self, now: int) -> None:
        """Publish the file of the active landmarks, unless it is published as it is."""
        if self._published is self._state and now <= self._fresh_until:
            return
        moment = datetime.fromtimestamp(now, UTC)
        active = self._state.active(moment, self._rules)
        await self._store.replace({f"{public_prefix(self._log.log_number)}landmarks": active.encode()})
        self._published = self._state
        # The oldest active landmark expires first.
        self._fresh_until = next((mark.expiry for mark in active.active(moment) if mark.expiry is not None), MAX_EXPIRY)

    def _overtaken(self) -> ConflictError:
        """Make the error for a register that somebody else moved."""
        return ConflictError(
            Reason.CONFLICT,
            f"another process allocates landmarks of log {self._log.log_number}; this one stops, exactly one may run",
            log=self._log.log_number,
        )
