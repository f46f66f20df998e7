-- What every limit needs of a server, on keys of its own: scripts, the clock (`now.lua` comes before it), a text and a sorted
-- set that expire. A server that refuses any of it is no cache, whatever else it answers.
-- KEYS 1 a text   2 a sorted set   ARGV 1 for how long, milliseconds
redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
redis.call('ZADD', KEYS[2], string.format('%.0f', now), 'probe')
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return redis.call('ZRANGE', KEYS[2], '-inf', '+inf', 'BYSCORE')
