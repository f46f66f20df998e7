-- KEYS 1 members   2 notes   ARGV 1 id
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
