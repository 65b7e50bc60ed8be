"""Accounts, orders and evidence of the ACME server, as tables for people and as JSON for scripts."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from mtc.acme.machine.orders import Account, Authorization, Order, OrderStatus
from mtc.cli.output import shown, table

_COLOURS = {
    "valid": "green",
    "ready": "cyan",
    "processing": "yellow",
    "pending": "yellow",
    "invalid": "red",
    "revoked": "red",
    "deactivated": "red",
    "expired": "red",
}


def time(moment: datetime) -> str:
    """Return a time, UTC, to the second."""
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def status_of(status: str) -> str:
    """Return a state in its colour."""
    return f"[{_COLOURS.get(status, 'default')}]{status}[/]"


def account_json(account: Account) -> dict[str, object]:
    """Return an account for scripts."""
    return {
        "id": account.id,
        "status": str(account.status),
        "created": account.created.isoformat(),
        "contacts": list(account.contacts),
        "address": account.address,
        "thumbprint": account.thumbprint,
        "terms_agreed": account.is_terms_agreed,
        "external_account": account.eab_kid,
        "allowed_names": list(account.allowed_names),
    }


def order_json(order: Order, status: OrderStatus) -> dict[str, object]:
    """Return an order for scripts. status: derived now."""
    finalized, place = order.finalized, order.place
    return {
        "id": order.id,
        "account": order.account_id,
        "status": str(status),
        "created": order.created.isoformat(),
        "expires": order.expires.isoformat(),
        "identifiers": [item.to_json() for item in order.identifiers],
        "profile": order.profile,
        "replaces": order.replaces,
        "finalized": None
        if finalized is None
        else {
            "time": finalized.moment.isoformat(),
            "not_before": finalized.not_before.isoformat(),
            "not_after": finalized.not_after.isoformat(),
            "evidence": list(finalized.evidence_ids),
        },
        "log": None if place is None else place.log_number,
        "index": None if place is None else place.index,
        "issued": order.is_issued,
        "error": None if order.error is None else order.error.to_json(),
    }


def authorization_json(authorization: Authorization, now: datetime) -> dict[str, object]:
    """Return an authorization for scripts."""
    return {
        "id": authorization.id,
        "identifier": authorization.identifier.to_json(),
        "status": str(authorization.status_at(now)),
        "expires": authorization.expires.isoformat(),
        "challenges": [
            {
                "method": str(item.method),
                "status": str(item.status),
                "validated": None if item.validated is None else item.validated.isoformat(),
                "error": None if item.error is None else item.error.to_json(),
            }
            for item in authorization.challenges
        ],
    }


def print_account(out: Console, account: Account) -> None:
    """Print an account."""
    rows = table("field", "value")
    rows.add_row("account", shown(account.id))
    rows.add_row("status", status_of(account.status))
    rows.add_row("made", f"{time(account.created)} from {shown(account.address) or 'an unknown address'}")
    rows.add_row("contacts", shown(", ".join(account.contacts)) or "none")
    rows.add_row("key thumbprint", shown(account.thumbprint))
    rows.add_row("external account", shown(account.eab_kid or "none"))
    rows.add_row("may ask for", shown(", ".join(account.allowed_names) or "all names"))
    out.print(rows)


def print_order(  # noqa: PLR0913 - an order and what belongs to it
    out: Console,
    order: Order,
    status: OrderStatus,
    authorizations: Sequence[Authorization],
    records: Sequence[Mapping[str, object]],
    now: datetime,
) -> None:
    """Print an order with its authorizations and evidence."""
    rows = table("field", "value")
    rows.add_row("order", shown(order.id))
    rows.add_row("status", status_of(status))
    if order.error is not None:
        rows.add_row("error", shown(f"{order.error.type}: {order.error.detail}"))
    rows.add_row("account", shown(order.account_id))
    rows.add_row("names", shown(", ".join(item.value for item in order.identifiers)))
    rows.add_row("made", f"{time(order.created)}, expires {time(order.expires)}")
    rows.add_row("profile", shown(order.profile or "none"))
    if order.finalized is not None:
        finalized = order.finalized
        rows.add_row("finalized", time(finalized.moment))
        rows.add_row("certificate", f"{time(finalized.not_before)} to {time(finalized.not_after)}")
    if order.place is not None:
        rows.add_row("entry", f"log {order.place.log_number}, index {order.place.index}")
    out.print(rows)
    if authorizations:
        out.print()
        out.print(_authorization_rows(authorizations, now))
    if records:
        out.print()
        print_records(out, records)


def _authorization_rows(authorizations: Sequence[Authorization], now: datetime) -> Table:
    """Return a table of authorizations: one line for each challenge that was tried."""
    rows = table("identifier", "status", "expires", "challenge", "what came of it")
    for item in authorizations:
        tried = [challenge for challenge in item.challenges if challenge.status != "pending"] or item.challenges[:1]
        for number, challenge in enumerate(tried):
            problem = challenge.error
            said = str(challenge.status) if problem is None else f"{problem.type}: {problem.detail}"
            head = ("", "", "")
            if number == 0:
                head = (shown(item.identifier.value), status_of(item.status_at(now)), time(item.expires))
            rows.add_row(*head, str(challenge.method), shown(said))
    return rows


def print_records(out: Console, records: Sequence[Mapping[str, object]]) -> None:
    """Print one line for each record of evidence."""
    rows = table("record", "kind", "time", "identifier", "outcome", numeric=(0,))
    for record in records:
        identifier = record.get("identifier")
        name = identifier.get("value", "") if isinstance(identifier, Mapping) else ""
        outcome = "[green]yes[/]" if record.get("ok") else "[red]no[/]"
        moment = datetime.fromisoformat(str(record["time"]))
        rows.add_row(str(record["id"]), shown(str(record["kind"])), time(moment), shown(str(name)), outcome)
    out.print(rows)
