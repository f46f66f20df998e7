-- KEYS 1 the event   ARGV 1 "p:<token>"   2 milliseconds
-- gives 0 claimed, 1 another claim is running, 2 done. One's own claim is taken again: its answer may have been lost.
local held = redis.call('GET', KEYS[1])
if held == 'd' then return 2 end
if held and held ~= ARGV[1] then return 1 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 0
