-- KEYS 1 members (sorted set, score = expiry in microseconds)   2 notes (hash)
-- ARGV 1 id   2 note   3 for how long, microseconds
-- gives {id, note, id, note, …} of all live members
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[3])), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', string.format('%.0f', now), 'BYSCORE')) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
end
local live = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  live[#live + 1] = id
  live[#live + 1] = redis.call('HGET', KEYS[2], id) or ''
end
return live
