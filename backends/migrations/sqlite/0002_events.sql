-- What has happened to every event. The same tables and column names as migrations/postgres/0001_events.sql.
-- Times are INTEGER Unix milliseconds: exact, comparable and small. Booleans are 0 and 1.

CREATE TABLE events (
    -- Order of first delivery, never given out twice. It is the row's own number, so it costs no index.
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id TEXT NOT NULL,
    key TEXT NOT NULL,
    bot TEXT NOT NULL,
    chat TEXT NOT NULL,
    type TEXT NOT NULL,
    tenant TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('received', 'planned', 'waiting', 'done', 'dead')),
    attempt INTEGER NOT NULL DEFAULT 0,
    -- Raised by whoever takes the event up; every change names the one it was given.
    fence INTEGER NOT NULL DEFAULT 1,
    -- While waiting: later events of the chat wait behind it.
    hold INTEGER NOT NULL DEFAULT 0,
    handler_starts INTEGER NOT NULL DEFAULT 0,
    replay_gen INTEGER NOT NULL DEFAULT 0,
    due_at INTEGER,
    -- When it was accepted, never later than the row itself: the age of an event is now - created_at.
    created_at INTEGER NOT NULL,
    -- The same by the accepting node's clock, as it travelled.
    received_at INTEGER NOT NULL,
    finished_at INTEGER,
    -- Feishu's own time of the event, Unix milliseconds, unchecked; 0 when it gave none.
    happened_ms INTEGER NOT NULL,
    traceparent TEXT,
    last_class TEXT,
    last_code INTEGER,
    last_error TEXT,
    plan BLOB,
    -- The body as it travelled: sealed when a key ring is configured. Last: it spills to overflow pages.
    envelope BLOB NOT NULL,
    UNIQUE (app_id, key)
) STRICT;

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
    app_id TEXT NOT NULL,
    key TEXT NOT NULL,
    idx INTEGER NOT NULL,
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    uuid TEXT NOT NULL CHECK (length(uuid) <= 50),
    state TEXT NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'sent', 'refused', 'unknown')),
    first_try_at INTEGER,
    tries INTEGER NOT NULL DEFAULT 0,
    -- The last try ended in a definite refusal: no copy exists.
    refused INTEGER NOT NULL DEFAULT 0,
    message_id TEXT,
    code INTEGER,
    sent_at INTEGER,
    PRIMARY KEY (app_id, key, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id TEXT NOT NULL,
    key TEXT NOT NULL,
    bot TEXT NOT NULL,
    chat TEXT NOT NULL,
    class TEXT NOT NULL,
    code INTEGER,
    error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    replay_gen INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    died_at INTEGER NOT NULL,
    replayed_at INTEGER,
    -- Replayed or dropped.
    resolved_at INTEGER
) STRICT;
-- An event has at most one open dead letter.
CREATE UNIQUE INDEX dead_letters_open ON dead_letters (app_id, key) WHERE resolved_at IS NULL;
CREATE INDEX dead_letters_by_event ON dead_letters (app_id, key);
CREATE INDEX dead_letters_by_bot ON dead_letters (bot, id) WHERE resolved_at IS NULL;

-- What operators did.
CREATE TABLE audit (
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    filter TEXT NOT NULL,
    count INTEGER NOT NULL
) STRICT;
