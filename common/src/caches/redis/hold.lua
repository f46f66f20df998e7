-- Counts a slot from now: its send may only now have arrived. The log must outlive the send: a minute's window, and some.
-- KEYS the logs   ARGV 1 member
for i = 1, #KEYS do
  redis.call('ZADD', KEYS[i], 'XX', 'GT', string.format('%.0f', now), ARGV[1])
  redis.call('PEXPIRE', KEYS[i], 65000)
end
return 1
