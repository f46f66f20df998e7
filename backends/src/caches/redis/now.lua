-- Put before every script that needs the time: microseconds by this server's clock, the only clock the limits know.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
