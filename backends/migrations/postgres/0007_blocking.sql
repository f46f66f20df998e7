-- What blocks a chat is looked for once a chat, so it must not be found by walking over what waits there. PostgreSQL takes the
-- index of its choice, and of a new table it chose `events_waiting`. A row has a due time exactly while it waits: with this in
-- the place of `state`, a statement that does not name the state can use no other index.
DROP INDEX events_holding;
CREATE INDEX events_blocking ON events (bot, chat, due_at, position, priority, covered) WHERE hold AND due_at IS NOT NULL;
