"""Values of the ACME server with nothing left out, for tests."""

from datetime import UTC, datetime, timedelta

from mtc.acme.machine.evidence import EvidenceRecord, RecordKind
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import Account, Authorization, Challenge, Finalized, Order
from mtc.acme.machine.validation import Method

START = datetime(2026, 11, 21, 15, 20, 1, 234567, tzinfo=UTC)
"""When the values of the test begin."""
HOUR = timedelta(hours=1)


def make_account(number: int = 0) -> Account:
    """Return an account with nothing left out."""
    return Account(
        id=f"account-{number}",
        jwk='{"crv":"P-256","kty":"EC"}',
        thumbprint=f"thumbprint-{number}",
        created=START + timedelta(seconds=number),
        contacts=("mailto:ä@example.com",),
        is_terms_agreed=True,
        eab_kid="kid",
        allowed_names=("example.com",),
        address="192.0.2.1",
    )


def make_authorization(number: int = 0, name: str = "www.example.com", account: str = "account-0") -> Authorization:
    """Return a pending authorization with one challenge."""
    return Authorization(
        id=f"authorization-{number}",
        account_id=account,
        identifier=Identifier.dns(name),
        created=START + timedelta(seconds=number),
        expires=START + HOUR,
        challenges=(Challenge(method=Method.HTTP_01, token=f"token-{number}"),),
    )


def make_order(number: int = 0, account: str = "account-0", authorizations: tuple[str, ...] = ()) -> Order:
    """Return a new order."""
    return Order(
        id=f"order-{number}",
        account_id=account,
        identifiers=(Identifier.dns("www.example.com"), Identifier.ip("2001:db8::1")),
        authorization_ids=authorizations,
        created=START + timedelta(seconds=number),
        expires=START + 2 * HOUR,
        profile="tls",
        not_before=START,
        not_after=START + 24 * HOUR,
    )


def make_finalized() -> Finalized:
    """Return what an order asks for."""
    return Finalized(
        spki=bytes(range(91)),
        not_before=START,
        not_after=START + 48 * HOUR,
        moment=START + HOUR,
        evidence_until=1_800_000_000,
        evidence_ids=(1, 7),
    )


def make_record(order: str | None = None, kind: RecordKind = RecordKind.VALIDATION) -> EvidenceRecord:
    """Return a record of evidence."""
    return EvidenceRecord(
        kind=kind,
        moment=START,
        account_id="account-0",
        is_positive=True,
        identifier=Identifier.dns("*.example.com"),
        authorization_id="authorization-0",
        order_id=order,
        document={"reports": [{"perspective": "local", "note": "ä\n"}], "count": 2**60},
    )
