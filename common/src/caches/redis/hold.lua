-- Counts a slot from now: its send may only now have arrived.
-- KEYS the logs   ARGV 1 member
for i = 1, #KEYS do
  redis.call('ZADD', KEYS[i], 'XX', 'GT', string.format('%.0f', now), ARGV[1])
end
return 1
