-- Who made an event: 0 the platform pushed it, 1 the send API. NULL in rows of older programs, where the type told.
ALTER TABLE events ADD COLUMN origin smallint;
