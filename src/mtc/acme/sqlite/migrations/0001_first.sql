-- What the ACME server keeps. Times are POSIX microseconds, flags are 0 and 1, nested parts are JSON, bytes are hex.
-- Only what SQLite and PostgreSQL both understand; what is searched for is a column with an index.

CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    jwk TEXT NOT NULL,
    thumbprint TEXT NOT NULL UNIQUE,
    created BIGINT NOT NULL,
    status TEXT NOT NULL,
    contacts TEXT NOT NULL,
    is_terms_agreed SMALLINT NOT NULL,
    eab_kid TEXT,
    allowed_names TEXT NOT NULL,
    address TEXT NOT NULL,
    version INTEGER NOT NULL
);
CREATE INDEX accounts_by_time ON accounts (created, id);

-- ends: the authorization may be forgotten after it; the latest of its own end and those of the orders that name it.
-- is_running: it is pending, and a challenge of it is being processed.
CREATE TABLE authorizations (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    identifier_type TEXT NOT NULL,
    identifier TEXT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    challenges TEXT NOT NULL,
    status TEXT NOT NULL,
    validated BIGINT,
    validation_id BIGINT NOT NULL,
    caa_checked BIGINT,
    caa_id BIGINT NOT NULL,
    version INTEGER NOT NULL,
    is_running SMALLINT NOT NULL,
    ends BIGINT NOT NULL
);
CREATE INDEX authorizations_valid ON authorizations (account_id, identifier_type, identifier, expires, id)
    WHERE status = 'valid';
CREATE INDEX authorizations_running ON authorizations (created, id) WHERE is_running = 1;
CREATE INDEX authorizations_by_end ON authorizations (ends);

-- status: invalid (it has an error), valid (issued), processing (finalized, neither) or pending (none of these).
-- ends: the order may be forgotten after it; the end of its certificate, or its own when none was asked for.
CREATE TABLE orders (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    identifiers TEXT NOT NULL,
    authorization_ids TEXT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    profile TEXT NOT NULL,
    not_before BIGINT,
    not_after BIGINT,
    replaces TEXT,
    finalized TEXT,
    log_number BIGINT,
    log_index BIGINT,
    is_issued SMALLINT NOT NULL,
    error TEXT,
    version INTEGER NOT NULL,
    status TEXT NOT NULL,
    ends BIGINT NOT NULL
);
CREATE INDEX orders_by_time ON orders (created, id);
CREATE INDEX orders_by_status ON orders (status, created, id);
CREATE INDEX orders_by_account ON orders (account_id, created, id);
CREATE INDEX orders_by_account_and_status ON orders (account_id, status, created, id);
CREATE INDEX orders_open ON orders (account_id, expires) WHERE status = 'pending';
CREATE INDEX orders_replacing ON orders (replaces, created, id) WHERE replaces IS NOT NULL AND status <> 'invalid';
-- An entry belongs to one order.
CREATE UNIQUE INDEX orders_by_place ON orders (log_number, log_index) WHERE log_number IS NOT NULL;
CREATE INDEX orders_by_end ON orders (ends) WHERE status <> 'processing';

CREATE TABLE records (
    id BIGINT PRIMARY KEY,
    kind TEXT NOT NULL,
    moment BIGINT NOT NULL,
    account_id TEXT NOT NULL,
    is_positive SMALLINT NOT NULL,
    identifier_type TEXT,
    identifier TEXT,
    authorization_id TEXT,
    order_id TEXT,
    document TEXT NOT NULL
);
CREATE INDEX records_by_order ON records (order_id, id) WHERE order_id IS NOT NULL;

CREATE TABLE external_accounts (
    kid TEXT PRIMARY KEY,
    secret TEXT NOT NULL,
    created BIGINT NOT NULL,
    allowed_names TEXT NOT NULL,
    note TEXT NOT NULL,
    is_used SMALLINT NOT NULL,
    is_revoked SMALLINT NOT NULL
);

-- parent: of a name, what remains without its first label; a wildcard for the parent covers the name.
CREATE TABLE blocks (
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    parent TEXT NOT NULL,
    reason TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (kind, value)
);
CREATE INDEX blocks_by_parent ON blocks (kind, parent);

-- full_at: when as much may be taken again as ever; a row whose time is past says nothing.
CREATE TABLE rates (
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    full_at BIGINT NOT NULL,
    PRIMARY KEY (name, key)
);
CREATE INDEX rates_by_time ON rates (full_at);
