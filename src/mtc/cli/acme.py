"""`mtc acme`: look at a CA's ACME accounts and orders, and decide who may ask for what.

The commands work on the database in the CA's folder, whether the server runs or not; it reads the database at every
request, so what they change holds at once.
"""

import asyncio
import base64
import hashlib
import json
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from rich.table import Table

from mtc.acme.config import FOLDER_NAME
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import Account, AccountStatus, Authorization, Order, OrderStatus
from mtc.acme.sqlite import DATABASE_NAME, SQLiteACMEStore
from mtc.acme.store import ExternalAccount, Replace
from mtc.ca.config import read_config
from mtc.cli.acme_output import (
    account_json,
    authorization_json,
    order_json,
    print_account,
    print_order,
    status_of,
    time,
)
from mtc.cli.output import ExitCode, console, read_input, shown, table
from mtc.errors import ConflictError, Error, Reason, UsageError
from mtc.web.clock import SystemClock
from mtc.wire import find_pem_block

_SECRET_BYTES = 32
_PAGE = 100
_TRIES = 10
_SHOWN_ORDERS = 10


@asynccontextmanager
async def open_acme(folder: str, *, may_make: bool = False) -> AsyncIterator[SQLiteACMEStore]:
    """Open the ACME database of a CA's folder. may_make: make it where no server ran yet. Raises UsageError."""
    path = Path(folder)
    # Says what is wrong with a folder that is no CA's.
    read_config(path)
    database = path / FOLDER_NAME / DATABASE_NAME
    if not may_make and not database.exists():
        raise UsageError(
            Reason.UNREADABLE, f"{folder} has no ACME accounts yet; mtc acme init and mtc ca serve begin with them"
        )
    store = SQLiteACMEStore.open(database, None)
    try:
        yield store
    finally:
        await store.close()


def list_accounts(folder: str, *, most: int, as_json: bool) -> None:
    """Print accounts, newest first."""

    async def work() -> tuple[list[Account], list[int]]:
        async with open_acme(folder) as store:
            accounts = await store.list_accounts(most=most)
            return accounts, [await store.count_open_orders(account.id, _now()) for account in accounts]

    accounts, counts = asyncio.run(work())
    if as_json:
        _print_json([account_json(account) | {"open_orders": n} for account, n in zip(accounts, counts, strict=True)])
        return
    rows = table("account", "status", "made", "from", "contacts", "may ask for", "open orders", numeric=(6,))
    for account, count in zip(accounts, counts, strict=True):
        rows.add_row(
            shown(account.id),
            status_of(account.status),
            time(account.created),
            shown(account.address),
            shown(", ".join(account.contacts)),
            shown(", ".join(account.allowed_names) or "all names"),
            str(count),
        )
    _print_rows(rows, len(accounts), "accounts", most)


@dataclass(frozen=True, slots=True)
class AccountOptions:
    """What `mtc acme account` is asked for. allowed_names: None to leave them, empty for all."""

    folder: str
    account_id: str
    is_deactivated: bool
    allowed_names: str | None
    as_json: bool


def run_account(options: AccountOptions) -> None:
    """Change an account if asked to, and print it with its newest orders."""
    names = None if options.allowed_names is None else parse_names(options.allowed_names)

    async def work() -> tuple[Account, list[Order], list[OrderStatus]]:
        async with open_acme(options.folder) as store:
            account = await _change_account(store, options, names)
            orders = await store.list_orders(account.id, most=_SHOWN_ORDERS)
            return account, orders, [await _status(store, order) for order in orders]

    account, orders, statuses = asyncio.run(work())
    if options.as_json:
        listed = [order_json(order, status) for order, status in zip(orders, statuses, strict=True)]
        _print_json(account_json(account) | {"orders": listed})
        return
    out = console()
    print_account(out, account)
    if orders:
        out.print()
        out.print(_order_rows(orders, statuses))


async def _change_account(store: SQLiteACMEStore, options: AccountOptions, names: tuple[str, ...] | None) -> Account:
    """Return an account after what was asked for. Raises UsageError when there is none."""
    for _ in range(_TRIES):
        account = await store.find_account(options.account_id)
        if account is None:
            raise UsageError(Reason.USAGE, f"there is no account {options.account_id}; mtc acme accounts lists them")
        changed = account
        if options.is_deactivated:
            changed = replace(changed, status=AccountStatus.REVOKED)
        if names is not None:
            changed = replace(changed, allowed_names=names)
        if changed == account:
            return account
        try:
            await store.commit(Replace(changed))
        except ConflictError:
            # The server changed it meanwhile.
            continue
        return replace(changed, version=account.version + 1)
    raise ConflictError(Reason.CONFLICT, f"account {options.account_id} changes all the time; try again")


def list_orders(folder: str, *, account: str | None, status: str | None, most: int, as_json: bool) -> None:
    """Print orders, newest first. status: as it is derived now."""
    if status is not None and status not in list(OrderStatus):
        raise UsageError(Reason.USAGE, f"--status: {status!r} is none of {', '.join(OrderStatus)}")
    wanted = None if status is None else OrderStatus(status)

    async def work() -> list[tuple[Order, OrderStatus]]:
        async with open_acme(folder) as store:
            return await _find_orders(store, account, wanted, most)

    found = asyncio.run(work())
    if as_json:
        _print_json([order_json(order, derived) for order, derived in found])
        return
    rows = _order_rows([order for order, _ in found], [derived for _, derived in found])
    _print_rows(rows, len(found), "orders", most)


async def _find_orders(
    store: SQLiteACMEStore, account: str | None, wanted: OrderStatus | None, most: int
) -> list[tuple[Order, OrderStatus]]:
    """Return orders with their states, newest first."""
    stored: tuple[OrderStatus | None, ...] = (wanted,)
    if wanted is OrderStatus.READY:
        stored = (OrderStatus.PENDING,)
    elif wanted is OrderStatus.INVALID:
        # Those that expired, or whose validation failed, have no error of their own.
        stored = (OrderStatus.INVALID, OrderStatus.PENDING)
    found: list[tuple[Order, OrderStatus]] = []
    for choice in stored:
        part: list[tuple[Order, OrderStatus]] = []
        after = ""
        while len(part) < most and (page := await store.list_orders(account, after=after, most=_PAGE, status=choice)):
            after = page[-1].id
            states = [(order, await _status(store, order)) for order in page]
            part += [item for item in states if wanted in (None, item[1])]
        found += part
    found.sort(key=lambda item: (item[0].created, item[0].id), reverse=True)
    return found[:most]


def show_order(folder: str, order_id: str, *, as_json: bool) -> None:
    """Print one order with its authorizations and evidence."""

    async def work() -> tuple[Order, OrderStatus, list[Authorization], list[dict[str, object]]]:
        async with open_acme(folder) as store:
            order = await store.find_order(order_id)
            if order is None:
                raise UsageError(Reason.USAGE, f"there is no order {order_id}; mtc acme orders lists them")
            authorizations = await _authorizations(store, order)
            ids = () if order.finalized is None else order.finalized.evidence_ids
            records = await store.find_records(ids) + await store.list_records(order_id)
            return order, await _status(store, order), authorizations, [record.to_json() for record in records]

    order, status, authorizations, records = asyncio.run(work())
    if as_json:
        _print_json(
            order_json(order, status)
            | {"authorizations": [authorization_json(item, _now()) for item in authorizations], "evidence": records}
        )
        return
    print_order(console(), order, status, authorizations, records, _now())


def run_block(folder: str, kind: str, value: str, *, reason: str, as_json: bool) -> None:
    """Block a name or a key."""

    async def work() -> None:
        async with open_acme(folder, may_make=True) as store:
            await store.block(kind, value, reason, _now())

    value = _key_value(kind, value)
    asyncio.run(work())
    if as_json:
        _print_json({"blocked": kind, "value": value, "reason": reason})
    else:
        below = " and all names below it" if kind == "name" else ""
        console().print(f"{shown(kind)} {shown(value)}{below} is blocked; what was issued before stays valid")


def run_unblock(folder: str, kind: str, value: str, *, as_json: bool) -> int:
    """Take a block back. Returns the exit code."""

    async def work() -> bool:
        async with open_acme(folder) as store:
            return await store.unblock(kind, value)

    value = _key_value(kind, value)
    is_gone = asyncio.run(work())
    if as_json:
        _print_json({"unblocked": is_gone, "kind": kind, "value": value})
    else:
        console().print(f"{shown(kind)} {shown(value)} {'is not blocked any more' if is_gone else 'was not blocked'}")
    return ExitCode.DONE if is_gone else ExitCode.NO


def list_blocks(folder: str, *, as_json: bool) -> None:
    """Print all blocks, newest first."""

    async def work() -> list[tuple[str, str, str, datetime]]:
        async with open_acme(folder) as store:
            return await store.list_blocks()

    blocks = asyncio.run(work())
    if as_json:
        names = ("kind", "value", "reason")
        _print_json([dict(zip(names, block[:3], strict=True)) | {"time": block[3].isoformat()} for block in blocks])
        return
    rows = table("what", "value", "why", "since")
    for kind, value, reason, moment in blocks:
        rows.add_row(kind, shown(value), shown(reason), time(moment))
    _print_rows(rows, len(blocks), "blocks", len(blocks) + 1)


def _key_value(kind: str, value: str) -> str:
    """Return what is blocked: of a key in a PEM file its hash, anything else as it is."""
    if kind != "key" or not Path(value).is_file():
        return value
    try:
        spki = find_pem_block(read_input(value), "PUBLIC KEY")
    except Error as error:
        raise UsageError(error.reason, f"{value} holds no public key: {error.message}") from None
    return hashlib.sha256(spki).hexdigest()


def _new_secret() -> bytes:
    """Return an HMAC key whose base64url does not begin with a hyphen, which clients would take for an option."""
    # The first character is a hyphen for the six bits 111110.
    while (secret := secrets.token_bytes(_SECRET_BYTES))[0] >> 2 == 62:
        pass
    return secret


def add_external(folder: str, *, kid: str | None, allowed_names: str, note: str, as_json: bool) -> None:
    """Make a key for external account binding, and print it once."""
    account = ExternalAccount(
        kid=kid or secrets.token_hex(12),
        secret=_new_secret(),
        created=_now(),
        allowed_names=parse_names(allowed_names),
        note=note,
    )

    async def work() -> None:
        async with open_acme(folder, may_make=True) as store:
            await store.add_external(account)

    asyncio.run(work())
    secret = base64.urlsafe_b64encode(account.secret).rstrip(b"=").decode()
    if as_json:
        _print_json({"kid": account.kid, "hmac_key": secret, "allowed_names": list(account.allowed_names)})
        return
    out = console()
    # Bare lines, to be copied; nothing is shown of them again.
    out.print(f"kid       {shown(account.kid)}", style="none")
    out.print(f"hmac key  {secret}", style="none")
    out.print(f"[dim]for one account, which may ask for {shown(_names(account.allowed_names))}; not shown again[/]")


def list_external(folder: str, *, as_json: bool) -> None:
    """Print the keys for external account binding, without their secrets."""

    async def work() -> list[ExternalAccount]:
        async with open_acme(folder) as store:
            return await store.list_external()

    found = asyncio.run(work())
    if as_json:
        _print_json([_external_json(item) for item in found])
        return
    rows = table("kid", "state", "made", "may ask for", "note")
    for item in found:
        state = "[red]revoked[/]" if item.is_revoked else "used" if item.is_used else "[green]free[/]"
        rows.add_row(shown(item.kid), state, time(item.created), shown(_names(item.allowed_names)), shown(item.note))
    _print_rows(rows, len(found), "keys", len(found) + 1)


def revoke_external(folder: str, kid: str, *, as_json: bool) -> None:
    """Revoke a key for external account binding."""

    async def work() -> None:
        async with open_acme(folder) as store:
            await store.revoke_external(kid)

    asyncio.run(work())
    if as_json:
        _print_json({"kid": kid, "revoked": True})
    else:
        console().print(f"{shown(kid)} binds no account any more; one that it bound stays (mtc acme account)")


def parse_names(text: str) -> tuple[str, ...]:
    """Return DNS suffixes from a list with commas, empty for all names. Raises UsageError."""
    try:
        return tuple(Identifier.dns(part.strip().removeprefix("*.")).value for part in text.split(",") if part.strip())
    except Error as error:
        raise UsageError(error.reason, f"--allow-names: {error.message}") from None


def _external_json(item: ExternalAccount) -> dict[str, object]:
    return {
        "kid": item.kid,
        "created": item.created.isoformat(),
        "allowed_names": list(item.allowed_names),
        "note": item.note,
        "used": item.is_used,
        "revoked": item.is_revoked,
    }


def _order_rows(orders: Sequence[Order], statuses: Sequence[OrderStatus]) -> Table:
    """Return a table of orders."""
    rows = table("order", "status", "made", "account", "names", "entry")
    for order, status in zip(orders, statuses, strict=True):
        rows.add_row(
            shown(order.id),
            status_of(status),
            time(order.created),
            shown(order.account_id),
            shown(", ".join(item.value for item in order.identifiers)),
            "" if order.place is None else f"{order.place.log_number}/{order.place.index}",
        )
    return rows


async def _authorizations(store: SQLiteACMEStore, order: Order) -> list[Authorization]:
    """Return the authorizations of an order, as far as they are kept."""
    found = [await store.find_authorization(item) for item in order.authorization_ids]
    return [item for item in found if item is not None]


async def _status(store: SQLiteACMEStore, order: Order) -> OrderStatus:
    """Return the state of an order now."""
    is_settled = order.error is not None or order.finalized is not None
    authorizations = [] if is_settled else await _authorizations(store, order)
    now = _now()
    return order.status_at(now, [item.status_at(now) for item in authorizations])


def _print_rows(rows: Table, count: int, what: str, most: int) -> None:
    """Print a table, or say that there is nothing."""
    if not count:
        console().print(f"[dim]no {what}[/]")
        return
    console().print(rows)
    if count >= most:
        console().print(f"[dim]the newest {count}; --limit shows more[/]")


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "all names"


def _now() -> datetime:
    return SystemClock().now()


def _print_json(value: object) -> None:
    """Print one line for scripts."""
    sys.stdout.write(json.dumps(value) + "\n")
