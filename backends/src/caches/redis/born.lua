-- Since when this server remembers what was sent.
-- KEYS  1 born: "<since, microseconds> <server's run id>"
-- ARGV  1 run id
local function reborn()
  redis.call('SET', KEYS[1], string.format('%.0f %s', now, ARGV[1]))
  return now
end

-- None: the logs are gone (FLUSHALL, a restart without a file). Another run id: a restart or a failover, and the last second
-- of the logs may be missing. In the future: the clock was set back.
local born, run = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (.*)$')
born = tonumber(born)
if run ~= ARGV[1] or born > now then born = reborn() end
