-- The embedded queue. `id` is the order of delivery within a bot.
CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    bot TEXT NOT NULL,
    envelope BLOB NOT NULL
);
CREATE INDEX queue_bot ON queue (bot, id);
