-- Forget the tombstones of one base bucket that are older than their retention.
-- KEYS  1 base bucket HASH
-- ARGV  1 time before which a delete is forgotten, us
-- Returns how many were forgotten. What a record holds is in records.py; the field of a record's second part is 17 bytes long.
local before, forgotten = tonumber(ARGV[1]), 0
local all = redis.call("HGETALL", KEYS[1])
local rest = {}
for n = 1, #all, 2 do
  if #all[n] > 16 then rest[string.sub(all[n], 1, 16)] = all[n + 1] end
end

local function is_old(record)
  if string.byte(record, 1) % 2 == 0 then return false end
  local at = 2
  for _ = 1, 2 do at = at + 1 + string.byte(record, at) end
  local written = 0
  for i = at + 6, at + 12 do written = written * 256 + string.byte(record, i) end
  return written < before
end

for n = 1, #all, 2 do
  local field, record = all[n], all[n + 1] .. (rest[all[n]] or "")
  if #field == 16 then
    local read, old = pcall(is_old, record) -- a damaged one is left to a person
    if read and old then
      redis.call("HDEL", KEYS[1], field, field .. "+")
      forgotten = forgotten + 1
    end
  end
end
return forgotten
