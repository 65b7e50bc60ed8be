"""Every statement that is sent to the database, in one place; a test shows that none of them reads a whole table."""

_ACCOUNT = "id, jwk, thumbprint, created, status, contacts, is_terms_agreed, eab_kid, allowed_names, address, version"
_AUTHORIZATION = (
    "id, account_id, identifier_type, identifier, created, expires, challenges, status, validated, validation_id, "
    "caa_checked, caa_id, version"
)
_ORDER = (
    "id, account_id, identifiers, authorization_ids, created, expires, profile, not_before, not_after, replaces, "
    "finalized, log_number, log_index, is_issued, error, version"
)
_RECORD = "id, kind, moment, account_id, is_positive, identifier_type, identifier, authorization_id, order_id, document"
_EXTERNAL = "kid, secret, created, allowed_names, note, is_used, is_revoked"


def _insert(table: str, columns: str) -> str:
    """Return the statement that adds a row."""
    marks = ", ".join("?" for _ in columns.split(","))
    return f"INSERT INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608 - of constants


def _update(table: str, columns: str, *, also: str = "") -> str:
    """Return the statement that changes a row of a version: the row's columns first, then its ID and the version."""
    assignments = ", ".join(f"{name.strip()} = ?" for name in columns.split(","))
    return f"UPDATE {table} SET {assignments}{also} WHERE id = ? AND version = ?"  # noqa: S608 - of constants


def _select(columns: str, rest: str) -> str:
    """Return the statement that reads rows."""
    return f"SELECT {columns} FROM {rest}"  # noqa: S608 - of constants


ADD_ACCOUNT = _insert("accounts", _ACCOUNT)
ADD_AUTHORIZATION = _insert("authorizations", _AUTHORIZATION + ", is_running, ends")
ADD_ORDER = _insert("orders", _ORDER + ", status, ends")
ADD_RECORD = _insert("records", _RECORD)
ADD_EXTERNAL = _insert("external_accounts", _EXTERNAL)

REPLACE_ACCOUNT = _update("accounts", _ACCOUNT)
REPLACE_AUTHORIZATION = _update(
    # Orders may have asked for it to be kept longer than it is valid.
    "authorizations",
    _AUTHORIZATION + ", is_running",
    also=", ends = CASE WHEN ends > ? THEN ends ELSE ? END",
)
REPLACE_ORDER = _update("orders", _ORDER + ", status, ends")

KEEP_AUTHORIZATION = "UPDATE authorizations SET ends = ? WHERE id = ? AND ends < ?"

OTHER_REPLACEMENT = (
    # An order that has expired without being finalized is invalid, though nobody wrote it down.
    "SELECT id FROM orders WHERE replaces = ? AND replaces IS NOT NULL AND status <> 'invalid' AND id <> ? "
    "AND (status <> 'pending' OR expires > ?) LIMIT 1"
)
USE_EXTERNAL = "UPDATE external_accounts SET is_used = 1 WHERE kid = ? AND is_used = 0 AND is_revoked = 0"
REVOKE_EXTERNAL = "UPDATE external_accounts SET is_revoked = 1 WHERE kid = ?"
LAST_RECORD_ID = "SELECT MAX(id) FROM records"

FIND_ACCOUNT = _select(_ACCOUNT, "accounts WHERE id = ?")
FIND_ACCOUNT_BY_KEY = _select(_ACCOUNT, "accounts WHERE thumbprint = ?")
FIND_AUTHORIZATION = _select(_AUTHORIZATION, "authorizations WHERE id = ?")
FIND_VALID = _select(
    _AUTHORIZATION,
    "authorizations WHERE account_id = ? AND identifier_type = ? AND identifier = ? AND status = 'valid' "
    "AND expires > ? ORDER BY expires DESC, id DESC LIMIT 1",
)
FIND_ORDER = _select(_ORDER, "orders WHERE id = ?")
FIND_ORDER_AT = _select(_ORDER, "orders WHERE log_number = ? AND log_index = ? AND log_number IS NOT NULL")
FIND_REPLACEMENT = _select(
    _ORDER,
    "orders WHERE replaces = ? AND replaces IS NOT NULL AND status <> 'invalid' ORDER BY created DESC, id DESC LIMIT 1",
)
FIND_RECORD = _select(_RECORD, "records WHERE id = ?")
FIND_EXTERNAL = _select(_EXTERNAL, "external_accounts WHERE kid = ?")

COUNT_OPEN_ORDERS = "SELECT COUNT(*) FROM orders WHERE account_id = ? AND status = 'pending' AND expires > ?"
LIST_UNFINISHED = _select(_ORDER, "orders WHERE status = 'processing' ORDER BY created, id")
LIST_RUNNING = _select(_AUTHORIZATION, "authorizations WHERE is_running = 1 ORDER BY created, id")
LIST_RECORDS_OF_ORDER = _select(_RECORD, "records WHERE order_id = ? AND order_id IS NOT NULL ORDER BY id")
LIST_RECORDS_AFTER = _select(_RECORD, "records WHERE id > ? ORDER BY id LIMIT ?")
LIST_EXTERNAL = _select(_EXTERNAL, "external_accounts ORDER BY created DESC, kid DESC")
LIST_BLOCKS = "SELECT kind, value, reason, created FROM blocks ORDER BY created DESC, kind, value"
LIST_RATES = "SELECT name, key, full_at FROM rates ORDER BY full_at DESC LIMIT ?"

ADD_BLOCK = (
    "INSERT INTO blocks (kind, value, parent, reason, created) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (kind, value) DO UPDATE SET reason = excluded.reason, created = excluded.created"
)
REMOVE_BLOCK = "DELETE FROM blocks WHERE kind = ? AND value = ?"
ADD_HASTENED = (
    "INSERT INTO hastened (log_number, first, behind, window_start, window_end, explanation_url, created) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
FIND_HASTENED = (
    "SELECT log_number, first, behind, window_start, window_end, explanation_url FROM hastened "
    "WHERE id = (SELECT MAX(id) FROM hastened WHERE log_number = ? AND behind > ? AND first <= ?)"
)
FIND_BLOCK = "SELECT kind, value, reason FROM blocks WHERE kind = ? AND value = ?"
FIND_BLOCK_BELOW = "SELECT kind, value, reason FROM blocks WHERE kind = 'name' AND parent = ? LIMIT 1"

KEEP_RATE = (
    "INSERT INTO rates (name, key, full_at) VALUES (?, ?, ?) "
    "ON CONFLICT (name, key) DO UPDATE SET full_at = excluded.full_at"
)
PRUNE_RATES = "DELETE FROM rates WHERE full_at <= ?"
PRUNE_ORDERS = (
    "DELETE FROM orders WHERE id IN (SELECT id FROM orders WHERE status <> 'processing' AND ends < ? "
    "ORDER BY ends LIMIT ?)"
)
PRUNE_AUTHORIZATIONS = (
    "DELETE FROM authorizations WHERE id IN (SELECT id FROM authorizations WHERE ends < ? ORDER BY ends LIMIT ?)"
)


def list_accounts(*, has_after: bool) -> str:
    """Return the statement for a page of accounts, newest first; its parameters in order: after, most."""
    return _select(_ACCOUNT, f"accounts {_page('accounts', [], has_after=has_after)}")


def list_orders(*, has_account: bool, has_status: bool, has_after: bool) -> str:
    """Return the statement for a page of orders, newest first; parameters in order: account, status, after, most."""
    conditions = [
        *(["account_id = ?"] if has_account else []),
        *(["status = ?"] if has_status else []),
    ]
    return _select(_ORDER, f"orders {_page('orders', conditions, has_after=has_after)}")


def _page(table: str, conditions: list[str], *, has_after: bool) -> str:
    """Return the clauses of a page, newest first, after the row with an ID."""
    if has_after:
        inner = _select("created, id", f"{table} WHERE id = ?")
        conditions = [*conditions, f"(created, id) < ({inner})"]
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    return f"{where}ORDER BY created DESC, id DESC LIMIT ?"
