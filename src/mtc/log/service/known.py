"""What is known of requests: which have an entry, in this log or one before it, and what may be said of it."""

from collections.abc import Mapping, Sequence

from mtc.errors import ConflictError, Error, Reason
from mtc.log.ledger.service import Ledger
from mtc.log.owed import KeptRound, OwedRound
from mtc.log.service.owed import OwedRounds, abandoned, describe_owed, late
from mtc.log.service.pool import Appended


class KnownRequests:
    """The ledgers of a log and of those that it follows, and what they owe."""

    def __init__(
        self,
        log_number: int,
        ledger: Ledger,
        owed: OwedRounds,
        earlier: Mapping[int, Ledger],
        given_up: Mapping[int, Sequence[KeptRound]],
    ) -> None:
        """Take them. earlier: by log number. given_up: what earlier logs owe for good, by log number."""
        self._log_number = log_number
        self._ledgers = {**earlier, log_number: ledger}
        self._owed = owed
        self._given_up = given_up

    @property
    def given_up(self) -> tuple[OwedRound, ...]:
        """What earlier logs owe, oldest first."""
        return tuple(
            describe_owed(number, kept, is_abandoned=True)
            for number, rounds in sorted(self._given_up.items())
            for kept in rounds
        )

    def ledger_of(self, log_number: int) -> Ledger:
        """Return the ledger of a log. Raises ConflictError for one that is not known."""
        ledger = self._ledgers.get(log_number)
        if ledger is None:
            raise ConflictError(Reason.CONFLICT, f"log {log_number} has no ledger here", log=log_number)
        return ledger

    async def find(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """Return log number and index of those request keys that have an entry, in this log or one before."""
        known: dict[bytes, tuple[int, int]] = {}
        for number, ledger in self._ledgers.items():
            known |= {key: (number, index) for key, index in (await ledger.find(keys)).items() if key not in known}
        for number, rounds in self._given_up.items():
            for kept in rounds:
                indices = kept.signed.indices
                known |= {key: (number, indices[key]) for key in keys if key in indices and key not in known}
        return known

    def outcome(self, log_number: int, index: int) -> Appended | Error:
        """Return what to tell of an entry that was found: no certificate leaves without the quorum of its round."""
        if log_number == self._log_number:
            missing = self._owed.find(index)
            return Appended(log_number, index) if missing is None else late(index, missing)
        rounds = self._given_up.get(log_number, ())
        if any(kept.signed.old_size <= index < kept.signed.new_size for kept in rounds):
            return abandoned(log_number, index)
        return Appended(log_number, index)
