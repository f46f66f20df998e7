-- Counts a slot as if its send arrived now, less the guard that every slot carries for arrivals after it.
-- KEYS the logs   ARGV 1 member   2 guard, microseconds
for i = 1, #KEYS do
  redis.call('ZADD', KEYS[i], 'XX', string.format('%.0f', now - tonumber(ARGV[2])), ARGV[1])
  -- The log must outlive the send: a minute's window, and some.
  redis.call('PEXPIRE', KEYS[i], 65000)
end
return 1
