-- Feishu's monthly quota: who is stopped, and what has been spent. The same tables as migrations/sqlite/0004_tenants.sql.

-- Nothing is sent for these until an operator resumes them.
CREATE TABLE tenant_stops (
    tenant text COLLATE "C" PRIMARY KEY,
    bot text NOT NULL,
    code bigint NOT NULL,
    error text NOT NULL,
    stopped_at timestamptz NOT NULL
);

-- `month` is the calendar month in UTC+8, as 202611.
CREATE TABLE calls (
    tenant text COLLATE "C" NOT NULL,
    month integer NOT NULL,
    kind text COLLATE "C" NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (tenant, month, kind)
);

-- The last tally each process has stored, so that a repeated one counts once.
CREATE TABLE call_writers (
    writer text COLLATE "C" PRIMARY KEY,
    number bigint NOT NULL,
    at timestamptz NOT NULL
);

CREATE TABLE budget_warnings (
    tenant text COLLATE "C" NOT NULL,
    month integer NOT NULL,
    percent integer NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (tenant, month, percent)
);
