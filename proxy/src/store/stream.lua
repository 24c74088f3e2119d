-- Reads the stream KEYS[1] behind the entry ARGV[1]: up to ARGV[2] entries, and no more once there are ARGV[3] bytes of
-- text. Answers nothing where there is no stream; else the id of the last entry that was added, how many were ever
-- added (-1 where the server does not count them), how many there are, the id of the first of them ('' where there is
-- none), 1 where more of them can be read at once, and then of each entry its id and its text: false where it has
-- other fields than one `update`, or is over ARGV[4] bytes.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local info, said = redis.call('XINFO', 'STREAM', KEYS[1]), {}
for place = 1, #info, 2 do said[info[place]] = info[place + 1] end
local first = said['first-entry']
local out = { said['last-generated-id'], said['entries-added'] or -1, said['length'], first and first[1] or '', 0 }
local read = redis.call('XREAD', 'COUNT', ARGV[2], 'STREAMS', KEYS[1], ARGV[1])
if not read then return out end
local entries, bytes = read[1][2], 0
if #entries == tonumber(ARGV[2]) then out[5] = 1 end
for place = 1, #entries do
  local id, fields = entries[place][1], entries[place][2]
  local text = #fields == 2 and fields[1] == 'update' and #fields[2] <= tonumber(ARGV[4]) and fields[2]
  bytes = bytes + (text and #text or 0)
  if place > 1 and bytes > tonumber(ARGV[3]) then
    out[5] = 1
    break
  end
  out[#out + 1] = id
  out[#out + 1] = text
end
return out
