-- Takes from every counter, or from none. One counter has one key and eight arguments:
--   'r' cost more limit period burst 0 0      a rate: `limit` in `period` us, `burst` at once
--   'w' cost more limit before start end next a window: `limit` from `start` to `end`, in unix seconds; the
--                                             windows before and after it begin and end where the others say
-- `cost` is taken, and up to `more` of what is then left, so that no asker takes more than half of that in advance.
-- Answers 1 or 0 (taken or not), and for each counter: 1 or 0 (it admits the cost or not), what is left, us until the
-- cost (or one, where nothing is left) may be taken, us until all is there again, how much more was taken, and the
-- start of the window. All numbers stay below 2^53. What is refused writes nothing.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local each, all, counters = 8, 1, {}

-- A rate is kept as the time when all is there again: `us`, and `part` in fractions of 1/limit us, so that nothing is
-- lost by rounding. Units of a rate take us and parts as follows.
local function span(c, units)
  local parts = units * c.r
  local whole = floor(parts / c.limit)
  return units * c.q + whole, parts - whole * c.limit
end

local function later(c, us, part, units)
  local more_us, more_part = span(c, units)
  us, part = us + more_us, part + more_part
  if part >= c.limit then us, part = us + 1, part - c.limit end
  return us, part
end

local function fits(c, units)
  local us, part = later(c, c.us, c.part, units)
  return us < c.full_us or (us == c.full_us and part <= c.full_part)
end

local function left(c)
  local units = floor(((c.full_us - c.us) + (c.full_part - c.part) / c.limit) / (c.q + c.r / c.limit))
  units = max(0, min(units, c.burst))
  while units > 0 and not fits(c, units) do units = units - 1 end
  while units < c.burst and fits(c, units + 1) do units = units + 1 end
  return units
end

local function wait(c, units)
  local us, part = later(c, c.us, c.part, units)
  if part > c.full_part then us = us + 1 end
  return max(0, us - c.full_us)
end

local function rate(c, value)
  c.q = floor(c.period / c.limit)
  c.r = c.period - c.q * c.limit
  c.full_us, c.full_part = later(c, now, 0, c.burst)
  c.us, c.part = now, 0
  if value then
    local us, part = value:match('^(%d+):(%d+)$')
    if not us then return false end
    us, part = tonumber(us), min(tonumber(part), c.limit - 1)
    if us >= now then c.us, c.part = us, part end
    -- The clock of the server went back: nobody waits for longer than a whole burst takes.
    if c.us > c.full_us then c.us, c.part = c.full_us, c.full_part end
  end
  c.admits = fits(c, c.cost)
  c.left = left(c)
  return true
end

local function window(c, value)
  local s = now / 1000000
  if s < c.before or s >= c.next then return false end
  local start, stop = c.start, c.stop
  if s < c.start then start, stop = c.before, c.start elseif s >= c.stop then start, stop = c.stop, c.next end
  c.count = 0
  if value then
    local known, count = value:match('^(%d+):(%d+)$')
    if not known then return false end
    known = tonumber(known)
    -- The clock of the server went back: the window that had begun goes on.
    if known > start and known == c.start then start, stop = c.start, c.stop end
    if known > start and known == c.stop then start, stop = c.stop, c.next end
    -- A window that begins in between is of other rules for the clock: two gateways must not undo each other.
    if known > c.before and known < c.next and known ~= c.start and known ~= c.stop then return false end
    if known == start then c.count = tonumber(count) end
  end
  c.begin, c.finish = start, stop
  c.left = max(0, c.limit - c.count)
  c.admits = c.cost <= c.left
  return true
end

for i = 1, #KEYS do
  local a = (i - 1) * each
  local c = { rate = ARGV[a + 1] == 'r', cost = tonumber(ARGV[a + 2]), more = tonumber(ARGV[a + 3]),
    limit = tonumber(ARGV[a + 4]) }
  if c.rate then
    c.period, c.burst = tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6])
  else
    c.before, c.start = tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6])
    c.stop, c.next = tonumber(ARGV[a + 7]), tonumber(ARGV[a + 8])
  end
  local value = redis.call('GET', KEYS[i])
  local sound
  if c.rate then sound = rate(c, value) else sound = window(c, value) end
  if not sound then
    return redis.error_reply('FOREGATE a counter holds something else, or clocks differ by a window')
  end
  if not c.admits then all = 0 end
  counters[i] = c
end

local answer = { all }
for i = 1, #KEYS do
  local c, extra, retry, reset = counters[i], 0, 0, 0
  if all == 1 then
    c.left = c.left - c.cost
    extra = max(0, min(c.more, floor(c.left / 2)))
    c.left = c.left - extra
  end
  local taken = (all == 1) and (c.cost + extra) or 0
  if c.rate then
    if not c.admits then retry = wait(c, c.cost) end
    if taken > 0 then
      c.us, c.part = later(c, c.us, c.part, taken)
      local value = string.format('%.0f:%.0f', c.us, c.part)
      redis.call('SET', KEYS[i], value, 'PX', string.format('%.0f', ceil((c.us - now) / 1000) + 1))
    end
    if c.admits and c.left == 0 then retry = wait(c, 1) end
    reset = c.us - now
    if c.part > 0 then reset = reset + 1 end
  else
    reset = max(0, c.finish * 1000000 - now)
    if not c.admits or c.left == 0 then retry = reset end
    if taken > 0 then
      local value = string.format('%.0f:%.0f', c.begin, c.count + taken)
      redis.call('SET', KEYS[i], value, 'PX', string.format('%.0f', ceil(reset / 1000) + 1000))
    end
  end
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3] = c.admits and 1 or 0, c.left, retry
  answer[n + 4], answer[n + 5], answer[n + 6] = reset, extra, c.begin or 0
end
return answer
