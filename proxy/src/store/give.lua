-- Gives units back to counters. One counter has one key and five arguments: 'r' units limit period age, or
-- 'w' units start 0 0. Gives back to no other window than the one it was taken in. Of a rate, what was taken `age` us
-- ago has come back by itself for so long: only what is surely still missing is given. Answers how many it gave.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local floor, given = math.floor, 0
for i = 1, #KEYS do
  local a = (i - 1) * 5
  local units, third, fourth = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local value = redis.call('GET', KEYS[i])
  local first, second = nil, nil
  if value then first, second = value:match('^(%d+):(%d+)$') end
  if first then
    first, second = tonumber(first), tonumber(second)
    if ARGV[a + 1] == 'r' then
      local q = floor(fourth / third)
      local parts = units * (fourth - q * third)
      local whole = floor(parts / third)
      local missing = units * q + whole - tonumber(ARGV[a + 5])
      if missing >= 0 then
        local us, part = first - missing, second - (parts - whole * third)
        if part < 0 then us, part = us - 1, part + third end
        if us <= now then
          redis.call('DEL', KEYS[i])
        else
          local left = math.ceil((us - now) / 1000) + 1
          redis.call('SET', KEYS[i], string.format('%.0f:%.0f', us, part), 'PX', string.format('%.0f', left))
        end
        given = given + units
      end
    elseif first == third then
      local count = math.max(0, second - units)
      redis.call('SET', KEYS[i], string.format('%.0f:%.0f', first, count), 'KEEPTTL')
      given = given + units
    end
  end
end
return given
