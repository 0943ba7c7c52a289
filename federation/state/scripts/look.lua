-- What is known of some keys of one shard besides their hints.
-- KEYS  1 held HASH, 2 intent HASH, 3.. base bucket HASHes
-- ARGV  of each key: its name, key digest, place of its bucket from 1
-- Returns one string: of each key base record, held record and intent, each behind its length in 4 bytes, big end first (a reply of
-- one piece costs the client a fraction of one of many).
local HEAD_BYTES = 64
local call = redis.call
local any_held, any_intent = call("EXISTS", KEYS[1]) == 1, call("EXISTS", KEYS[2]) == 1
local out = {}

local function add(value)
  value = value or ""
  out[#out + 1] = struct.pack(">I4", #value)
  out[#out + 1] = value
end

for n = 1, #ARGV, 3 do
  local key, digest, bucket = ARGV[n], ARGV[n + 1], KEYS[2 + tonumber(ARGV[n + 2])]
  local base = call("HGET", bucket, digest)
  -- A record longer than the compact encoding takes is in two fields (records.py).
  if base and #base == HEAD_BYTES then base = base .. (call("HGET", bucket, digest .. "+") or "") end
  add(base)
  add(any_held and call("HGET", KEYS[1], key))
  add(any_intent and call("HGET", KEYS[2], key))
end
return table.concat(out)
