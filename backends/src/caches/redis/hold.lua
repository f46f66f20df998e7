-- Counts a slot as if its send arrived now, less the guard that every slot carries for arrivals after it.
-- KEYS  1 the widest late guard in use, then the logs   ARGV  1 member   2 default late guard   3 jitter, microseconds
-- The widest guard is what a taker adds; one that is about to expire may be gone by then.
local late = tonumber(ARGV[2])
if redis.call('PTTL', KEYS[1]) > 2000 then late = math.max(late, tonumber(redis.call('GET', KEYS[1]))) end
local arrived = string.format('%.0f', now - late - tonumber(ARGV[3]))
for i = 2, #KEYS do
  redis.call('ZADD', KEYS[i], 'XX', arrived, ARGV[1])
  -- The log must outlive the send: a minute's window, and some.
  redis.call('PEXPIRE', KEYS[i], 65000)
end
return 1
