"""The owed rounds of a log: kept, shown to cosigners again and again, completed, and told of when it lasts.

The order of completing one, and what a crash means after each step, stand in `mtc.log.machine`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from mtc.cert import SubtreeSignature
from mtc.errors import ConflictError, FormatError, PeerError, Reason, Rejected
from mtc.log.formats import owed_prefix
from mtc.log.ledger.formats import open_object, protect
from mtc.log.ledger.service import Ledger
from mtc.log.owed import KeptRound, OwedRound, complete_signatures
from mtc.log.service.pool import Appended, Pool, PublishedRound, Waiting
from mtc.merkle import Subtree
from mtc.store import ObjectStore


@dataclass(slots=True)
class _Debt:
    """An owed round in memory. since: steady seconds. entries: encoded, as long as somebody of `items` may wait.

    items: who waits since the round was planned. joined: who asked again with a request key, and gets the entry's place
    alone. Both by index.
    """

    kept: KeptRound
    since: float
    entries: tuple[bytes, ...] = ()
    items: list[tuple[int, Waiting]] = field(default_factory=list)
    joined: list[tuple[int, Waiting]] = field(default_factory=list)
    is_late: bool = False

    def release(self) -> list[tuple[int, Waiting]]:
        """Return everybody who waits, who are told now."""
        waiting = self.items + self.joined
        self.items, self.joined, self.entries = [], [], ()
        return waiting


class OwedRounds:
    """The owed rounds of one log, oldest first. One writer: the log's sequencer."""

    def __init__(self, store: ObjectStore, log_number: int, pool: Pool, kept: Sequence[KeptRound], now: float) -> None:
        """Take what `fetch_owed` found. now: steady seconds."""
        self._store = store
        self._log_number = log_number
        self._pool = pool
        self._debts = [_Debt(item, now) for item in kept]

    def __len__(self) -> int:
        """Return how many rounds are owed."""
        return len(self._debts)

    @property
    def subtrees(self) -> tuple[tuple[Subtree, bytes], ...]:
        """What cosigners should sign, with hashes."""
        return tuple(item for debt in self._debts for item in debt.kept.subtrees)

    @property
    def listing(self) -> tuple[OwedRound, ...]:
        """The rounds for people."""
        return tuple(describe_owed(self._log_number, debt.kept) for debt in self._debts)

    def find(self, index: int) -> OwedRound | None:
        """Return the owed round that holds entry `index`, None when none does."""
        debt = self._find(index)
        return None if debt is None else describe_owed(self._log_number, debt.kept)

    def _find(self, index: int) -> _Debt | None:
        for debt in self._debts:
            if debt.kept.signed.old_size <= index < debt.kept.signed.new_size:
                return debt
        return None

    async def keep(self, kept: KeptRound) -> None:
        """Make a round durable as one that is owed, before anybody can believe that it is complete."""
        key = KeptRound.key_of(self._log_number, kept.signed.new_size)
        await self._store.replace({key: protect(key, kept.encode())})

    def add(self, kept: KeptRound, round_: PublishedRound, items: Sequence[Waiting], since: float) -> None:
        """Take a round that was kept and recorded. items: who waits for its entries, in order."""
        places = list(enumerate(items, kept.signed.old_size))
        self._debts.append(_Debt(kept, since, round_.entries, places))

    def join(self, item: Waiting, index: int) -> None:
        """Let somebody wait for an entry of an owed round, or tell at once where the round is late."""
        debt = self._find(index)
        assert debt is not None, "the caller has found it"
        if debt.is_late:
            self._pool.settle(item, late(index, describe_owed(self._log_number, debt.kept)))
        else:
            debt.joined.append((index, item))

    def note(self, why: str) -> None:
        """Remember who is missing now."""
        for debt in self._debts:
            debt.kept = replace(debt.kept, why=why)

    def tell_late(self, now: float, wait_s: float) -> None:
        """Tell those who have waited too long where their entries are, and that there is no quorum."""
        for debt in self._debts:
            if debt.is_late or now - debt.since <= wait_s:
                continue
            debt.is_late = True
            for index, item in debt.release():
                self._pool.settle(item, late(index, describe_owed(self._log_number, debt.kept)))

    def give_up(self) -> None:
        """Tell everybody who waits that the log was given up."""
        for debt in self._debts:
            for index, item in debt.release():
                self._pool.settle(item, abandoned(self._log_number, index))

    @property
    def waiting(self) -> list[Waiting]:
        """Everybody who waits for an owed round."""
        return [item for debt in self._debts for _, item in (*debt.items, *debt.joined)]

    async def complete(self, ledger: Ledger, answer: Mapping[Subtree, tuple[SubtreeSignature, ...]]) -> None:
        """Record the rounds that an answer completes, acknowledge their entries, and owe them no more."""
        found = [(debt, complete_signatures(debt.kept, answer)) for debt in self._debts]
        done = []
        for debt, signatures in found:
            if signatures is not None:
                known = await ledger.round_of(debt.kept.signed.old_size)
                if known is None:
                    raise self._contradiction(debt)
                done.append((debt, replace(known, signatures=signatures)))
        if not done:
            return
        await ledger.replace_rounds([signed for _, signed in done])
        for debt, signed in done:
            self._pool.acknowledge(debt.items, PublishedRound(self._log_number, debt.entries, signed))
            for index, item in debt.joined:
                self._pool.settle(item, Appended(self._log_number, index))
            debt.release()
        await self._store.discard([KeptRound.key_of(self._log_number, signed.new_size) for _, signed in done])
        finished = {id(debt) for debt, _ in done}
        self._debts = [debt for debt in self._debts if id(debt) not in finished]

    def _contradiction(self, debt: _Debt) -> ConflictError:
        """Make the error for an owed round that the ledger does not know."""
        size = debt.kept.signed.new_size
        return ConflictError(
            Reason.CONFLICT,
            f"the ledger of log {self._log_number} does not know the owed round to {size} entries; bring the ledger of "
            "this moment back",
            log=self._log_number,
        )


async def fetch_owed(store: ObjectStore, log_number: int) -> list[KeptRound]:
    """Return the rounds that are kept as owed, oldest first. Raises FormatError (DAMAGED, …) that names the object."""
    keys = await store.list_keys(owed_prefix(log_number))
    kept = []
    for key, data in zip(keys, await store.fetch(keys) if keys else [], strict=True):
        if data is None:
            continue
        item = KeptRound.parse(open_object(key, data))
        if KeptRound.key_of(log_number, item.signed.new_size) != key:
            raise FormatError(Reason.DAMAGED, f"{key} holds another round", key=key)
        kept.append(item)
    return kept


def describe_owed(log_number: int, kept: KeptRound, *, is_abandoned: bool = False) -> OwedRound:
    """Return an owed round for people."""
    signed = kept.signed
    return OwedRound(log_number, signed.old_size, signed.new_size, signed.timestamp, kept.why, is_abandoned)


def late(index: int, missing: OwedRound) -> PeerError:
    """Make the error for an entry that is issued and whose cosignatures have not come for long."""
    return PeerError(
        Reason.NO_QUORUM,
        f"entry {index} of log {missing.log_number} is signed and in the log, but its cosignatures have not come since "
        f"{format_time(missing.signed_at)}: {missing.why}. Ask again later with the same request key: the certificate "
        "comes when they do",
        log=missing.log_number,
        index=index,
    )


def abandoned(log_number: int, index: int) -> Rejected:
    """Make the error for an entry that is issued, in a log that was given up before its cosignatures came."""
    return Rejected(
        Reason.ABANDONED,
        f"this request is entry {index} of log {log_number}, signed before that log was given up without the quorum; "
        "there is no certificate for it. Revoke it if it must not count, and ask again with another request key",
        log=log_number,
        index=index,
    )


def no_quorum(missing: OwedRound) -> Rejected:
    """Make the error for a new entry while the last round waits for its cosignatures."""
    return Rejected(
        Reason.NO_QUORUM,
        f"log {missing.log_number} takes no new entries, because its last round lacks cosignatures since "
        f"{format_time(missing.signed_at)}: {missing.why}. This request is not in the log; come again later",
        log=missing.log_number,
        since=missing.signed_at,
    )


def format_time(seconds: int) -> str:
    """Return POSIX seconds for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
