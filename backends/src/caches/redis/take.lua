-- Takes one slot that fits every level, or nothing. The same algorithm as `quota::SlidingWindowLog`, which explains it. `born.lua`
-- comes before it.
--
-- KEYS  1 born   2 the widest late guard in use, microseconds
--       then for each level: its log (sorted set, score = slot in microseconds), its pause (until, microseconds)
-- ARGV  1 run id   2 nonce   3 horizon   4 quiet   5 late guard   6 jitter   7 default late guard
--       then for each level: count, window     all in microseconds
-- gives {1, wait, member} or {0, wait, index of the level in the way}
local horizon, late = tonumber(ARGV[3]), tonumber(ARGV[5])
local first_level = 7
local n = (#KEYS - 2) / 2

local keys = {KEYS[2]}
for i = 1, n do keys[1 + i] = KEYS[2 + 2 * i] end
local held = redis.call('MGET', unpack(keys))

-- A sender with a slow link may be late by more. What it sends must fit with what all others send, so the widest guard
-- in use is everybody's. It outlives the longest window, a minute.
local widest = tonumber(held[1] or 0)
if late > tonumber(ARGV[7]) and late >= widest then
  redis.call('SET', KEYS[2], ARGV[5], 'PX', 65000)
end
local guard = math.max(late, widest) + tonumber(ARGV[6])

local quiet = born + tonumber(ARGV[4]) + horizon

local levels, at = {}, math.max(now, quiet)
for i = 1, n do
  local level = {
    log = KEYS[1 + 2 * i],
    count = tonumber(ARGV[first_level + 2 * i - 1]),
    window = tonumber(ARGV[first_level + 2 * i]) + guard,
    paused = tonumber(held[1 + i] or 0),
  }
  if level.count == 0 then return {0, level.window, i - 1} end
  local newest
  if level.count > 50 then
    -- The N-th newest slot must be a window old.
    local nth = redis.call('ZRANGE', level.log, -level.count, -level.count, 'WITHSCORES')
    level.nth = tonumber(nth[2])
    newest = level.nth
  else
    local slots = redis.call('ZRANGE', level.log, string.format('(%.0f', now - level.window), '+inf', 'BYSCORE', 'WITHSCORES')
    for j = 2, #slots, 2 do level[j / 2] = tonumber(slots[j]) end
    newest = level[#level]
  end
  -- No reservation reaches this far ahead: the clock was set back. Start over rather than wait for the old time.
  if newest and newest > now + horizon + 10000000 then
    redis.call('DEL', level.log)
    reborn()
    return {0, tonumber(ARGV[4]) + horizon, 0}
  end
  levels[i] = level
  at = math.max(at, level.paused)
end

local function earliest(level, from)
  if level.nth then return math.max(from, level.nth + level.window) end
  for first = 1, #level - level.count + 1 do
    local stop, newest = level[first] + level.window, level[first + level.count - 1]
    if newest < stop and from < stop and from + level.window > newest then from = stop end
  end
  return from
end

local moved, narrowest = true, 1
while moved do
  moved = false
  for i = 1, n do
    local fits = earliest(levels[i], at)
    if fits > at then at, narrowest, moved = fits, math.max(narrowest, i), true end
  end
end

if at > now + horizon then
  local blamed
  for i = 1, n do
    if earliest(levels[i], math.max(now, quiet, levels[i].paused)) == at then
      blamed = i
      break
    end
  end
  return {0, math.max(at - math.floor(horizon / 2), now) - now, (blamed or narrowest) - 1}
end

local member = string.format('%.0f:%s', at, ARGV[2])
for i = 1, n do
  local level = levels[i]
  -- First, because a full server refuses only a script's first write.
  redis.call('ZADD', level.log, string.format('%.0f', at), member)
  redis.call('ZREMRANGEBYSCORE', level.log, '-inf', string.format('%.0f', now - level.window))
  redis.call('PEXPIRE', level.log, math.ceil((at - now + level.window) / 1000) + 2000)
end
return {1, at - now, member}
