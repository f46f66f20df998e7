-- Feishu's monthly quota: who is stopped, and what has been spent. The same tables as migrations/postgres/0003_tenants.sql;
-- times are Unix milliseconds.

-- Nothing is sent for these until an operator resumes them.
CREATE TABLE tenant_stops (
    tenant TEXT NOT NULL PRIMARY KEY,
    bot TEXT NOT NULL,
    code INTEGER NOT NULL,
    error TEXT NOT NULL,
    stopped_at INTEGER NOT NULL
) WITHOUT ROWID;

-- `month` is the calendar month in UTC+8, as 202611.
CREATE TABLE calls (
    tenant TEXT NOT NULL,
    month INTEGER NOT NULL,
    kind TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (tenant, month, kind)
) WITHOUT ROWID;

-- The last tally each process has stored, so that a repeated one counts once.
CREATE TABLE call_writers (
    writer TEXT NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE budget_warnings (
    tenant TEXT NOT NULL,
    month INTEGER NOT NULL,
    percent INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (tenant, month, percent)
) WITHOUT ROWID;
