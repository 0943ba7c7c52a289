-- Forget base records of one bucket that are still exactly what was seen.
-- KEYS  1 base bucket HASH, 2 count
-- ARGV  of each record: its digest, then the whole record as seen. The field of a record's second part is 17 bytes long.
-- Returns how many were forgotten.
local call = redis.call
local forgotten, live = 0, 0
for n = 1, #ARGV, 2 do
  local digest, seen = ARGV[n], ARGV[n + 1]
  local head = call("HGET", KEYS[1], digest)
  local record = head and head .. (call("HGET", KEYS[1], digest .. "+") or "")
  if record == seen then
    local length = string.byte(record, 2)
    local live_one = (string.byte(record, 1) or 1) % 2 == 0 and (length or 0) > 0 and (string.byte(record, 3 + length) or 0) > 0
    if live_one then live = live + 1 end
    call("HDEL", KEYS[1], digest, digest .. "+")
    forgotten = forgotten + 1
  end
end
if live > 0 then call("DECRBY", KEYS[2], live) end
return forgotten
