-- A yardstick, no part of the product: the exact sliding log. Five in the last second, counted when the sender asks.
-- KEYS one log a level: sorted set   ARGV 1 nonce   gives how long to wait, microseconds; 0: taken
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local wait = 0
for i = 1, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', string.format('%.0f', now - 1000000))
  if redis.call('ZCARD', KEYS[i]) >= 5 then
    local oldest = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
    wait = math.max(wait, oldest[2] + 1000000 - now)
  end
end
if wait > 0 then return math.ceil(wait) end
for i = 1, #KEYS do redis.call('ZADD', KEYS[i], string.format('%.0f', now), ARGV[1]) end
return 0
