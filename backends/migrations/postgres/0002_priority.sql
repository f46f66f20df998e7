-- Who goes first. The same columns and, but for events_by_state, indexes as migrations/sqlite/0003_priority.sql.

-- 0 an answer to a person, 1 a notification, 2 a replay.
ALTER TABLE events ADD COLUMN priority smallint NOT NULL DEFAULT 0;
-- While waiting: another waiting row of its chat, at least as urgent, stands for it, and whoever takes that one up brings
-- this one forward. So the search for what is next meets a chat with a hundred thousand rows about once.
ALTER TABLE events ADD COLUMN covered boolean NOT NULL DEFAULT false;

UPDATE events SET priority = 2 WHERE state = 'waiting' AND replay_gen > 0;

-- Not for waiting rows: a planner without statistics would take it for theirs.
DROP INDEX events_by_state;
CREATE INDEX events_by_state ON events (bot, state) WHERE state <> 'waiting';
-- What is next, and when: covered rows are not asked for.
DROP INDEX events_due;
CREATE INDEX events_next ON events (bot, priority, due_at, position, chat) WHERE state = 'waiting' AND NOT covered;
-- The waiting room by chat, urgency and order.
DROP INDEX events_waiting;
CREATE INDEX events_waiting ON events (bot, chat, priority, position) WHERE state = 'waiting';
-- The rows of it that later ones wait behind: by time, because only those that are not due yet matter.
DROP INDEX events_holding;
CREATE INDEX events_holding ON events (bot, chat, due_at, position, priority, covered) WHERE state = 'waiting' AND hold;
