-- Certificates that an operator wants renewed at another time than usual: entries [first, behind) of a log.
-- id: rises; the last row about an entry counts.
CREATE TABLE hastened (
    id INTEGER PRIMARY KEY,
    log_number BIGINT NOT NULL,
    first BIGINT NOT NULL,
    behind BIGINT NOT NULL,
    window_start BIGINT NOT NULL,
    window_end BIGINT NOT NULL,
    explanation_url TEXT,
    created BIGINT NOT NULL
);
CREATE INDEX hastened_by_place ON hastened (log_number, behind, first);
