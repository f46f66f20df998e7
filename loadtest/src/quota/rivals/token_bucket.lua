-- A yardstick, no part of the product: the token bucket as people write it. Five tokens, refilled at five a second.
-- KEYS one bucket a level: hash {tokens, at}   gives how long to wait, microseconds; 0: taken
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local capacity, rate = 5, 5 / 1000000
local filled, wait = {}, 0
for i = 1, #KEYS do
  local held = redis.call('HMGET', KEYS[i], 'tokens', 'at')
  local tokens = tonumber(held[1] or capacity)
  tokens = math.min(capacity, tokens + (now - tonumber(held[2] or now)) * rate)
  filled[i] = tokens
  if tokens < 1 then wait = math.max(wait, math.ceil((1 - tokens) / rate)) end
end
if wait > 0 then return wait end
for i = 1, #KEYS do redis.call('HSET', KEYS[i], 'tokens', tostring(filled[i] - 1), 'at', string.format('%.0f', now)) end
return 0
