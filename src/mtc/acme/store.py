"""What the ACME server keeps: one contract, of which SQLite is the first implementation.

Everything that is decided together is committed together. A value that was read carries its version; a change of it is
a new value with the same version, and fails when somebody else was faster. So handlers read, decide and commit, and
nothing is locked meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mtc.acme.machine.evidence import EvidenceRecord
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import Account, Authorization, Order, OrderStatus
from mtc.acme.machine.renewal import Hastened

__all__ = [
    "ACMEStore",
    "Add",
    "Change",
    "ExternalAccount",
    "Put",
    "RateLimit",
    "Replace",
    "Use",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalAccount:
    """A key that binds new accounts to an account elsewhere (RFC 8555, "External Account Binding").

    kid: its name. secret: the HMAC key, at least 32 bytes. allowed_names: what accounts bound to it may ask for, empty
    for all. is_used: an account is bound to it; a second one may not be. is_revoked: nobody may use it any more.
    """

    kid: str
    secret: bytes
    created: datetime
    allowed_names: tuple[str, ...] = ()
    note: str = ""
    is_used: bool = False
    is_revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most `burst` at once, and that many within `period_s` seconds, refilled evenly. name: in the database."""

    name: str
    burst: int
    period_s: float


@dataclass(frozen=True, slots=True)
class Add:
    """Put a new value in; fails when its ID is taken.

    An account's key must be new as well, and no other order that is not invalid may replace what an order replaces.
    """

    value: Account | Authorization | Order


@dataclass(frozen=True, slots=True)
class Replace:
    """Put a changed value in the place of the one with the same ID. Fails when that has another version by now."""

    value: Account | Authorization | Order


@dataclass(frozen=True, slots=True)
class Put:
    """Append a record of evidence."""

    record: EvidenceRecord


@dataclass(frozen=True, slots=True)
class Use:
    """Mark an external account as used. Fails when it is used already, or revoked."""

    kid: str


Change = Add | Replace | Put | Use


class ACMEStore(Protocol):
    """The repository. Every method may be called from many tasks at once; each sees what was committed before.

    Raises StorageError when the storage fails; then nothing of a commit is kept, or all of it.
    """

    async def commit(self, *changes: Change) -> tuple[int, ...]:
        """Apply changes, all or none, durable on return: in the database and, for records, in the journal of the day.

        Returns the IDs of the records that were put, in order; they rise. Raises ConflictError when one change fails.
        """

    async def find_account(self, account_id: str) -> Account | None:
        """Return an account."""

    async def find_account_by_key(self, thumbprint: str) -> Account | None:
        """Return the account with a key, whatever its status."""

    async def find_authorizations(self, ids: Sequence[str]) -> list[Authorization]:
        """Return authorizations in the order of their IDs. Raises StorageError when one is missing."""

    async def find_authorization(self, authorization_id: str) -> Authorization | None:
        """Return an authorization."""

    async def find_valid(
        self, account_id: str, identifiers: Sequence[Identifier], until: datetime
    ) -> dict[Identifier, Authorization]:
        """Return, by identifier, the account's valid authorization that expires last, if that is after `until`."""

    async def find_order(self, order_id: str) -> Order | None:
        """Return an order."""

    async def find_order_at(self, log_number: int, index: int) -> Order | None:
        """Return the order whose entry stands there, as far as its place was noted."""

    async def find_replacement(self, certificate_id: str) -> Order | None:
        """Return the order, not invalid, that says it replaces a certificate."""

    async def list_orders(
        self, account_id: str | None = None, *, after: str = "", most: int = 100, status: OrderStatus | None = None
    ) -> list[Order]:
        """Return orders of an account, or of all, newest first, after the one with the ID `after`.

        status: only INVALID (with an error), VALID (issued), PROCESSING (finalized, neither) or PENDING (none of
        these) are told apart here; the rest is derived.
        """

    async def list_unfinished(self) -> list[Order]:
        """Return all orders that are finalized, not issued and have no error; for the start after a crash."""

    async def list_running(self) -> list[Authorization]:
        """Return all pending authorizations with a challenge in processing; for the start after a crash."""

    async def count_open_orders(self, account_id: str, now: datetime) -> int:
        """Return how many orders of an account are neither finalized nor invalid nor expired."""

    async def find_records(self, ids: Sequence[int]) -> list[EvidenceRecord]:
        """Return records of evidence in the order of their IDs; those that are missing are left out."""

    async def list_records(self, order_id: str) -> list[EvidenceRecord]:
        """Return the records that name an order, oldest first."""

    async def take(self, limit: RateLimit, key: str, now: datetime, cost: int = 1) -> float:
        """Take from a rate limit, which is kept for each key by itself.

        Returns 0 when there was enough, else the seconds to wait, and then nothing is taken. It need not be durable at
        once: a crash may give some of it back.
        """

    async def add_external(self, account: ExternalAccount) -> None:
        """Keep a key for external account binding. Raises ConflictError when its name is taken."""

    async def find_external(self, kid: str) -> ExternalAccount | None:
        """Return a key for external account binding."""

    async def list_external(self) -> list[ExternalAccount]:
        """Return all of them, newest first; also those that are used or revoked."""

    async def revoke_external(self, kid: str) -> None:
        """Revoke a key. Raises ConflictError when there is none."""

    async def list_accounts(self, *, after: str = "", most: int = 100) -> list[Account]:
        """Return accounts, newest first, after the one with the ID `after`."""

    async def block(self, kind: str, value: str, reason: str, now: datetime) -> None:
        """Block a name (kind "name": it and what is below it) or a key (kind "key": hash of the public key, hex)."""

    async def unblock(self, kind: str, value: str) -> bool:
        """Take a block back. Returns whether there was one."""

    async def find_block(self, names: Sequence[str], key_hashes: Sequence[str]) -> tuple[str, str, str] | None:
        """Return kind, value and reason of a block that one of these falls under, None without one."""

    async def list_blocks(self) -> list[tuple[str, str, str, datetime]]:
        """Return kind, value, reason and time of all blocks."""

    async def hasten(self, hastened: Hastened, now: datetime) -> None:
        """Have certificates renewed at another time; what was said last about an entry counts."""

    async def find_hastened(self, log_number: int, index: int) -> Hastened | None:
        """Return what was said last about the renewal of an entry's certificate, None when nothing was."""

    async def close(self) -> None:
        """Write what is left and close."""
