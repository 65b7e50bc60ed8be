"""Accounts, authorizations, challenges and orders, and the states that they may be in.

What is stored is what was decided: keys, validations, the request that was finalized. What follows from it is derived:
the state of an order from its authorizations and from the log, in which its entry has the order's request key.

Spec: RFC 8555, "Resources" and "Status Changes"; RFC 9773, "Extensions to the Order Object"; the ACME profiles draft.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.problems import Problem, ProblemType, compound
from mtc.acme.machine.validation import Method

REQUEST_KEY_PREFIX = b"acme/"
"""What begins the request key of every entry that an order asked for; the order's ID follows."""


class AccountStatus(StrEnum):
    """States of an account. `revoked` is the server's doing, `deactivated` the client's."""

    VALID = "valid"
    DEACTIVATED = "deactivated"
    REVOKED = "revoked"


class AuthorizationStatus(StrEnum):
    """States of an authorization."""

    PENDING = "pending"
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"
    EXPIRED = "expired"
    REVOKED = "revoked"


class ChallengeStatus(StrEnum):
    """States of a challenge."""

    PENDING = "pending"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


class OrderStatus(StrEnum):
    """States of an order."""

    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account. version: how often it was changed; the store compares it.

    jwk: the public key, canonical JSON text. thumbprint: of the key, RFC 7638, base64url; unique among all accounts.
    eab_kid: the external account that it is bound to, None for none. allowed_names: DNS suffixes that it may ask for,
    empty for all. address: from which it was made, for people.
    """

    id: str
    jwk: str
    thumbprint: str
    created: datetime
    status: AccountStatus = AccountStatus.VALID
    contacts: tuple[str, ...] = ()
    is_terms_agreed: bool = False
    eab_kid: str | None = None
    allowed_names: tuple[str, ...] = ()
    address: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way to prove control. token: at least 128 bits, base64url. validated: when it became valid."""

    method: Method
    token: str
    status: ChallengeStatus = ChallengeStatus.PENDING
    validated: datetime | None = None
    error: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """An account's right to certificates for one identifier.

    identifier: as it was ordered, perhaps a wildcard; clients see it without `*.` and with a flag. expires: of a valid
    one when its validation must not be reused any more. validation_id: of the evidence that made it valid, 0 before.
    caa_checked: when CAA last allowed this CA to certify it, caa_id: of that evidence.
    """

    id: str
    account_id: str
    identifier: Identifier
    created: datetime
    expires: datetime
    challenges: tuple[Challenge, ...]
    status: AuthorizationStatus = AuthorizationStatus.PENDING
    validated: datetime | None = None
    validation_id: int = 0
    caa_checked: datetime | None = None
    caa_id: int = 0
    version: int = 0

    def status_at(self, now: datetime) -> AuthorizationStatus:
        """Return the status at a time: what was pending or valid expires."""
        is_open = self.status in (AuthorizationStatus.PENDING, AuthorizationStatus.VALID)
        return AuthorizationStatus.EXPIRED if is_open and now >= self.expires else self.status

    @property
    def method(self) -> Method | None:
        """How it was validated, None as long as it was not."""
        return next((item.method for item in self.challenges if item.status is ChallengeStatus.VALID), None)

    def challenge(self, method: str) -> Challenge | None:
        """Return the challenge of a method, None without one."""
        return next((item for item in self.challenges if item.method == method), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalized:
    """What an order asked the CA for, once and for all; with the order's request key it becomes one entry or none.

    spki: DER. not_before, not_after: of the certificate, inclusive. evidence_until: POSIX seconds after which the
    validations and CAA checks behind it are too old to be signed. evidence_ids: of those records.
    """

    spki: bytes
    not_before: datetime
    not_after: datetime
    moment: datetime
    evidence_until: int
    evidence_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the entry of an order stands: a copy of what the log's ledger says, so that it can be searched for."""

    log_number: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order. identifiers: in the order in which they were asked for, without duplicates.

    authorization_ids: in the same order. not_before, not_after: as requested. replaces: the certificate identifier of
    RFC 9773. finalized: None before. place: None as long as it is not known that there is an entry; is_issued: its
    standalone certificate exists, with all cosignatures that the policy asks for. error: why it is invalid.
    """

    id: str
    account_id: str
    identifiers: tuple[Identifier, ...]
    authorization_ids: tuple[str, ...]
    created: datetime
    expires: datetime
    profile: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    replaces: str | None = None
    finalized: Finalized | None = None
    place: Place | None = None
    is_issued: bool = False
    error: Problem | None = None
    version: int = 0

    @property
    def request_key(self) -> bytes:
        """The idempotency key of the order's entry in the log."""
        return REQUEST_KEY_PREFIX + self.id.encode()

    def status_at(self, now: datetime, authorizations: Sequence[AuthorizationStatus]) -> OrderStatus:
        """Return the state at a time. authorizations: the states of the order's authorizations at that time.

        An order that was finalized has left its authorizations behind: their end does not undo its entry.
        """
        if self.error is not None:
            return OrderStatus.INVALID
        if self.finalized is not None:
            return OrderStatus.VALID if self.is_issued else OrderStatus.PROCESSING
        if now >= self.expires:
            return OrderStatus.INVALID
        if all(status is AuthorizationStatus.VALID for status in authorizations):
            return OrderStatus.READY
        if all(status in (AuthorizationStatus.VALID, AuthorizationStatus.PENDING) for status in authorizations):
            return OrderStatus.PENDING
        return OrderStatus.INVALID


def explain_failure(authorizations: Sequence[Authorization]) -> Problem | None:
    """Return why an order is invalid: what its authorizations say, by identifier; None when no challenge failed."""
    problems = [
        replace(challenge.error, identifier=item.identifier)
        for item in authorizations
        for challenge in item.challenges
        if challenge.error is not None
    ]
    if not problems:
        return None
    return compound(ProblemType.UNAUTHORIZED, "some identifiers were not validated", problems)


def order_id_of(request_key: bytes) -> str | None:
    """Return which order a log's request key belongs to, None when it is not one of ACME's."""
    if not request_key.startswith(REQUEST_KEY_PREFIX):
        return None
    return request_key.removeprefix(REQUEST_KEY_PREFIX).decode("ascii", "replace")
