-- Returns a slot under which nothing was sent.
-- KEYS the logs   ARGV 1 member
for i = 1, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
return 1
