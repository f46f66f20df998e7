-- KEYS 1 the pause   ARGV 1 for how long, microseconds. The longest pause wins.
local pause = tonumber(ARGV[1])
if now + pause > tonumber(redis.call('GET', KEYS[1]) or 0) then
  redis.call('SET', KEYS[1], string.format('%.0f', now + pause), 'PX', math.ceil(pause / 1000) + 1)
end
return 1
