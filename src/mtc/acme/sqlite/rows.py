"""Values as rows, and back: every value comes back equal to what was stored."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from mtc.acme.machine.evidence import EvidenceRecord, RecordKind
from mtc.acme.machine.identifiers import Identifier, IdentifierType
from mtc.acme.machine.orders import (
    Account,
    AccountStatus,
    Authorization,
    AuthorizationStatus,
    Challenge,
    ChallengeStatus,
    Finalized,
    Order,
    OrderStatus,
    Place,
)
from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.machine.validation import Method
from mtc.acme.store import ExternalAccount
from mtc.errors import Reason, StorageError

Row = Sequence[Any]
"""One row as SQLite gives it."""
Cell = str | int | None
"""One column as it is stored."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Value = TypeVar("_Value")


def micros_of(moment: datetime) -> int:
    """Return POSIX microseconds, exact."""
    span = moment - _EPOCH
    return (span.days * 86400 + span.seconds) * 1_000_000 + span.microseconds


def moment_of(micros: int) -> datetime:
    """Return a time, UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def stored_status(order: Order) -> OrderStatus:
    """Return what is told apart in the database; the rest is derived from the authorizations and the time."""
    if order.error is not None:
        return OrderStatus.INVALID
    if order.finalized is not None:
        return OrderStatus.VALID if order.is_issued else OrderStatus.PROCESSING
    return OrderStatus.PENDING


def end_of(order: Order) -> int:
    """Return when an order may be forgotten: when its certificate ends, or itself when none was asked for."""
    end = order.expires if order.finalized is None else max(order.expires, order.finalized.not_after)
    return micros_of(end)


def account_row(account: Account) -> tuple[Cell, ...]:
    """Return the columns of an account."""
    return (
        account.id,
        account.jwk,
        account.thumbprint,
        micros_of(account.created),
        str(account.status),
        _dump(account.contacts),
        int(account.is_terms_agreed),
        account.eab_kid,
        _dump(account.allowed_names),
        account.address,
        account.version,
    )


def authorization_row(authorization: Authorization) -> tuple[Cell, ...]:
    """Return the columns of an authorization."""
    is_pending = authorization.status is AuthorizationStatus.PENDING
    is_processing = any(item.status is ChallengeStatus.PROCESSING for item in authorization.challenges)
    return (
        authorization.id,
        authorization.account_id,
        str(authorization.identifier.type),
        authorization.identifier.value,
        micros_of(authorization.created),
        micros_of(authorization.expires),
        _dump([_dump_challenge(challenge) for challenge in authorization.challenges]),
        str(authorization.status),
        _micros_or_none(authorization.validated),
        authorization.validation_id,
        _micros_or_none(authorization.caa_checked),
        authorization.caa_id,
        authorization.version,
        int(is_pending and is_processing),
        micros_of(authorization.expires),
    )


def order_row(order: Order) -> tuple[Cell, ...]:
    """Return the columns of an order."""
    return (
        order.id,
        order.account_id,
        _dump([[str(identifier.type), identifier.value] for identifier in order.identifiers]),
        _dump(order.authorization_ids),
        micros_of(order.created),
        micros_of(order.expires),
        order.profile,
        _micros_or_none(order.not_before),
        _micros_or_none(order.not_after),
        order.replaces,
        None if order.finalized is None else _dump(_dump_finalized(order.finalized)),
        None if order.place is None else order.place.log_number,
        None if order.place is None else order.place.index,
        int(order.is_issued),
        None if order.error is None else _dump(_dump_problem(order.error)),
        order.version,
        str(stored_status(order)),
        end_of(order),
    )


def record_row(record: EvidenceRecord) -> tuple[Cell, ...]:
    """Return the columns of a record, without its ID."""
    return (
        str(record.kind),
        micros_of(record.moment),
        record.account_id,
        int(record.is_positive),
        None if record.identifier is None else str(record.identifier.type),
        None if record.identifier is None else record.identifier.value,
        record.authorization_id,
        record.order_id,
        _dump(dict(record.document)),
    )


def external_row(account: ExternalAccount) -> tuple[Cell, ...]:
    """Return the columns of an external account."""
    return (
        account.kid,
        account.secret.hex(),
        micros_of(account.created),
        _dump(account.allowed_names),
        account.note,
        int(account.is_used),
        int(account.is_revoked),
    )


def read_account(row: Row) -> Account:
    """Return the account in a row."""
    return _read(_account, row, "account")


def read_authorization(row: Row) -> Authorization:
    """Return the authorization in a row."""
    return _read(_authorization, row, "authorization")


def read_order(row: Row) -> Order:
    """Return the order in a row."""
    return _read(_order, row, "order")


def read_record(row: Row) -> EvidenceRecord:
    """Return the record in a row."""
    return _read(_record, row, "record of evidence")


def read_external(row: Row) -> ExternalAccount:
    """Return the external account in a row."""
    return _read(_external, row, "external account")


def journal_line(record: EvidenceRecord, record_id: int) -> bytes:
    """Return a record's line in the journal."""
    document = replace(record, id=record_id).to_json()
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _read(call: Callable[[Row], _Value], row: Row, what: str) -> _Value:
    """Return the value in a row. Raises StorageError for one that nobody can have written."""
    try:
        return call(row)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise StorageError(
            Reason.DAMAGED, f"{what} {row[0]} in the database of the ACME server is damaged: {error}", id=row[0]
        ) from error


def _account(row: Row) -> Account:
    return Account(
        id=row[0],
        jwk=row[1],
        thumbprint=row[2],
        created=moment_of(row[3]),
        status=AccountStatus(row[4]),
        contacts=tuple(json.loads(row[5])),
        is_terms_agreed=bool(row[6]),
        eab_kid=row[7],
        allowed_names=tuple(json.loads(row[8])),
        address=row[9],
        version=row[10],
    )


def _authorization(row: Row) -> Authorization:
    return Authorization(
        id=row[0],
        account_id=row[1],
        identifier=Identifier(IdentifierType(row[2]), row[3]),
        created=moment_of(row[4]),
        expires=moment_of(row[5]),
        challenges=tuple(_load_challenge(item) for item in json.loads(row[6])),
        status=AuthorizationStatus(row[7]),
        validated=_moment_or_none(row[8]),
        validation_id=row[9],
        caa_checked=_moment_or_none(row[10]),
        caa_id=row[11],
        version=row[12],
    )


def _order(row: Row) -> Order:
    return Order(
        id=row[0],
        account_id=row[1],
        identifiers=tuple(Identifier(IdentifierType(kind), value) for kind, value in json.loads(row[2])),
        authorization_ids=tuple(json.loads(row[3])),
        created=moment_of(row[4]),
        expires=moment_of(row[5]),
        profile=row[6],
        not_before=_moment_or_none(row[7]),
        not_after=_moment_or_none(row[8]),
        replaces=row[9],
        finalized=None if row[10] is None else _load_finalized(json.loads(row[10])),
        place=None if row[11] is None else Place(log_number=row[11], index=row[12]),
        is_issued=bool(row[13]),
        error=None if row[14] is None else _load_problem(json.loads(row[14])),
        version=row[15],
    )


def _record(row: Row) -> EvidenceRecord:
    return EvidenceRecord(
        id=row[0],
        kind=RecordKind(row[1]),
        moment=moment_of(row[2]),
        account_id=row[3],
        is_positive=bool(row[4]),
        identifier=None if row[5] is None else Identifier(IdentifierType(row[5]), row[6]),
        authorization_id=row[7],
        order_id=row[8],
        document=json.loads(row[9]),
    )


def _external(row: Row) -> ExternalAccount:
    return ExternalAccount(
        kid=row[0],
        secret=bytes.fromhex(row[1]),
        created=moment_of(row[2]),
        allowed_names=tuple(json.loads(row[3])),
        note=row[4],
        is_used=bool(row[5]),
        is_revoked=bool(row[6]),
    )


def _dump(value: object) -> str:
    """Return JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)


def _micros_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else micros_of(moment)


def _moment_or_none(micros: int | None) -> datetime | None:
    return None if micros is None else moment_of(micros)


def _dump_challenge(challenge: Challenge) -> list[object]:
    return [
        str(challenge.method),
        challenge.token,
        str(challenge.status),
        _micros_or_none(challenge.validated),
        None if challenge.error is None else _dump_problem(challenge.error),
    ]


def _load_challenge(item: Sequence[Any]) -> Challenge:
    return Challenge(
        method=Method(item[0]),
        token=item[1],
        status=ChallengeStatus(item[2]),
        validated=_moment_or_none(item[3]),
        error=None if item[4] is None else _load_problem(item[4]),
    )


def _dump_finalized(finalized: Finalized) -> dict[str, object]:
    return {
        "spki": finalized.spki.hex(),
        "not_before": micros_of(finalized.not_before),
        "not_after": micros_of(finalized.not_after),
        "moment": micros_of(finalized.moment),
        "evidence_until": finalized.evidence_until,
        "evidence_ids": list(finalized.evidence_ids),
    }


def _load_finalized(item: Mapping[str, Any]) -> Finalized:
    return Finalized(
        spki=bytes.fromhex(item["spki"]),
        not_before=moment_of(item["not_before"]),
        not_after=moment_of(item["not_after"]),
        moment=moment_of(item["moment"]),
        evidence_until=item["evidence_until"],
        evidence_ids=tuple(item["evidence_ids"]),
    )


def _dump_problem(problem: Problem) -> dict[str, object]:
    """Return a problem whole; the document that clients get lacks the time to wait."""
    return {
        "type": str(problem.type),
        "detail": problem.detail,
        "status": problem.status,
        "identifier": None if problem.identifier is None else problem.identifier.to_json(),
        "subproblems": [_dump_problem(item) for item in problem.subproblems],
        "retry_after_s": problem.retry_after_s,
        "members": None if problem.members is None else dict(problem.members),
    }


def _load_problem(item: Mapping[str, Any]) -> Problem:
    identifier = item["identifier"]
    return Problem(
        type=ProblemType(item["type"]),
        detail=item["detail"],
        status=item["status"],
        identifier=None if identifier is None else Identifier(IdentifierType(identifier["type"]), identifier["value"]),
        subproblems=tuple(_load_problem(inner) for inner in item["subproblems"]),
        retry_after_s=item["retry_after_s"],
        members=item["members"],
    )
