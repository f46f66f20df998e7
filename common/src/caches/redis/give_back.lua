-- Returns a slot that was not used; does nothing once its time has come.
-- KEYS the logs   ARGV 1 member
if tonumber(string.match(ARGV[1], '^%d+')) <= now then return 0 end
for i = 1, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
return 1
