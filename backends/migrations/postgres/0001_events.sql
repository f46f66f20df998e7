-- What has happened to every event. The same tables and column names as migrations/sqlite/0002_events.sql.
-- Keys compare byte by byte ("C"): locks are taken in key order, and the order must be the same everywhere.
-- No foreign keys: a check would lock the event's row once more for every action, and every writer already holds it.

-- One block of 1000 positions for each batch; the batch numbers its events inside its block in delivery order.
CREATE SEQUENCE event_position INCREMENT BY 1000;

CREATE TABLE events (
    app_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    bot text COLLATE "C" NOT NULL,
    chat text COLLATE "C" NOT NULL,
    type text NOT NULL,
    tenant text NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('received', 'planned', 'waiting', 'done', 'dead')),
    attempt integer NOT NULL DEFAULT 0,
    -- Raised by whoever takes the event up; every change names the one it was given.
    fence bigint NOT NULL DEFAULT 1,
    -- Order of first delivery.
    position bigint NOT NULL,
    -- While waiting: later events of the chat wait behind it.
    hold boolean NOT NULL DEFAULT false,
    handler_starts integer NOT NULL DEFAULT 0,
    replay_gen integer NOT NULL DEFAULT 0,
    due_at timestamptz,
    -- When it was accepted, never later than the row itself: the age of an event is now() - created_at.
    created_at timestamptz NOT NULL,
    -- The same by the accepting node's clock, as it travelled.
    received_at timestamptz NOT NULL,
    finished_at timestamptz,
    -- Feishu's own time of the event, Unix milliseconds, unchecked; 0 when it gave none.
    happened_ms bigint NOT NULL,
    traceparent text,
    last_class text,
    last_code bigint,
    last_error text,
    -- The body as it travelled: sealed when a key ring is configured.
    envelope bytea NOT NULL,
    plan bytea,
    PRIMARY KEY (app_id, key)
)
-- Every event's row is written about three times.
WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05);

-- Counting, and what a worker that takes over a bot finds unfinished.
CREATE INDEX events_by_state ON events (bot, state);
-- The next due row of a bot.
CREATE INDEX events_due ON events (bot, due_at) WHERE state = 'waiting';
-- The waiting room by chat and order.
CREATE INDEX events_waiting ON events (bot, chat, position) WHERE state = 'waiting';
-- The rows of it that later ones wait behind.
CREATE INDEX events_holding ON events (bot, chat, position) WHERE state = 'waiting' AND hold;
-- Retention.
CREATE INDEX events_finished ON events (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE actions (
    app_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    idx integer NOT NULL,
    kind text NOT NULL,
    target text NOT NULL,
    uuid varchar(50) NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'sent', 'refused', 'unknown')),
    first_try_at timestamptz,
    tries integer NOT NULL DEFAULT 0,
    -- The last try ended in a definite refusal: no copy exists.
    refused boolean NOT NULL DEFAULT false,
    message_id text,
    code bigint,
    sent_at timestamptz,
    PRIMARY KEY (app_id, key, idx)
);

CREATE TABLE dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    app_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    bot text COLLATE "C" NOT NULL,
    chat text COLLATE "C" NOT NULL,
    class text NOT NULL,
    code bigint,
    error text NOT NULL,
    attempts integer NOT NULL,
    replay_gen integer NOT NULL,
    created_at timestamptz NOT NULL,
    died_at timestamptz NOT NULL,
    replayed_at timestamptz,
    -- Replayed or dropped.
    resolved_at timestamptz
);
-- An event has at most one open dead letter.
CREATE UNIQUE INDEX dead_letters_open ON dead_letters (app_id, key) WHERE resolved_at IS NULL;
CREATE INDEX dead_letters_by_event ON dead_letters (app_id, key);
CREATE INDEX dead_letters_by_bot ON dead_letters (bot, id) WHERE resolved_at IS NULL;

-- What operators did.
CREATE TABLE audit (
    at timestamptz NOT NULL,
    who text NOT NULL,
    what text NOT NULL,
    filter text NOT NULL,
    count bigint NOT NULL
);
