-- The member of a pool that an action goes out through, chosen before its first request: uuids are per app, so only the same
-- member may repeat it. NULL for what a bot sends itself.
ALTER TABLE actions ADD COLUMN sender text;
