-- Record what both sides agree on and drop what was known at the claimed generation.
-- KEYS  1 lease, 2 due ZSET, 3 since:blob ZSET, 4 since:vast ZSET, 5 hint HASH, 6 claimed HASH, 7 held HASH, 8 intent HASH,
--       9 count, 10 base bucket HASH
-- ARGV  1 token, 2 key, 3 generation, 4 key digest, 5 base record ("" forgets), 6 now_us
-- Returns false when the token is refused, 1 when the key is clean, 0 when it was marked meanwhile and stays dirty.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return false end
local key, generation, digest, record, now = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], tonumber(ARGV[6])
-- A repeat after a lost reply: what it says was recorded, and may have been overtaken since. (Generation 0: nobody claimed it.)
if generation ~= 0 and tonumber(redis.call("HGET", KEYS[6], key) or -1) ~= generation then
  return 1 - redis.call("HEXISTS", KEYS[5], key)
end

-- 1 for a record by which both sides hold the object (records.py: flags, then each ETag behind its length), else 0.
local function on_both(base)
  if not base or base == "" or string.byte(base, 1) % 2 == 1 then return 0 end
  local length = string.byte(base, 2)
  return (length > 0 and string.byte(base, 3 + length) > 0) and 1 or 0
end

local change = on_both(record) - on_both(redis.call("HGET", KEYS[10], digest))
if change ~= 0 then redis.call("INCRBY", KEYS[9], change) end
if record == "" then redis.call("HDEL", KEYS[10], digest) else redis.call("HSET", KEYS[10], digest, record) end
redis.call("HDEL", KEYS[6], key)
redis.call("HDEL", KEYS[7], key)
redis.call("HDEL", KEYS[8], key)

local packed = redis.call("HGET", KEYS[5], key)
local hint = packed and cmsgpack.unpack(packed)
if not hint or hint[1] == generation then
  redis.call("HDEL", KEYS[5], key)
  for i = 2, 4 do redis.call("ZREM", KEYS[i], key) end
  return 1
end

hint[2], hint[3] = 0, ""
for side = 0, 1 do
  local newer = {}
  for _, entry in ipairs(hint[5 + side]) do
    if entry[6] > generation then newer[#newer + 1] = entry end
  end
  hint[5 + side] = newer
  redis.call("ZREM", KEYS[3 + side], key)
  if hint[7][1 + side] >= 0 then redis.call("ZADD", KEYS[3 + side], hint[7][1 + side], key) end
end
redis.call("HSET", KEYS[5], key, cmsgpack.pack(hint))
redis.call("ZADD", KEYS[2], now, key)
return 0
