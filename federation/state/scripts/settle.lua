-- Record of some keys of one shard what both sides agree on, and drop what was known at each claimed generation.
-- KEYS  1 lease, 2 due ZSET, 3 since:blob ZSET, 4 since:vast ZSET, 5 hint HASH, 6 claimed HASH, 7 held HASH, 8 intent HASH,
--       9 count, 10.. base bucket HASHes
-- ARGV  1 token, 2 now_us, then of each key: its name, generation, key digest, base record in two parts ("" "" forgets), place of
--       its bucket from 1. At most 1,000 keys, none of them twice
-- Returns false when the token is refused, else of each key 1 when it is clean, 0 when it was marked meanwhile and stays dirty.
local HEAD_BYTES = 64
local call = redis.call
if call("GET", KEYS[1]) ~= ARGV[1] then return false end
-- At maxmemory Redis looks only at a script's first write, and lets one pass that cannot add memory. This one removes nothing
-- (no name is empty): a settled key frees far more than is recorded of it, and nothing else would free that.
call("ZREM", KEYS[2], "")
local now = tonumber(ARGV[2])
local change = 0

-- 1 for a record by which both sides hold the object (records.py: flags, then each ETag behind its length), else 0.
local function on_both(base)
  if not base or base == "" or string.byte(base, 1) % 2 == 1 then return 0 end
  local length = string.byte(base, 2)
  -- One that is cut short counts as none.
  return ((length or 0) > 0 and (string.byte(base, 3 + length) or 0) > 0) and 1 or 0
end

-- A record longer than the compact encoding takes is in two fields (records.py).
local function record_base(bucket, digest, head, tail)
  local old, more = call("HGET", bucket, digest), false
  if old and #old == HEAD_BYTES then
    local rest = call("HGET", bucket, digest .. "+")
    if rest then old, more = old .. rest, true end
  end
  change = change + on_both(head .. tail) - on_both(old)
  if head == "" then call("HDEL", bucket, digest) else call("HSET", bucket, digest, head) end
  if tail ~= "" then call("HSET", bucket, digest .. "+", tail) elseif more then call("HDEL", bucket, digest .. "+") end
end

-- Keep of a key that was marked meanwhile only what came after *generation*.
local function keep_newer(key, hint, generation)
  hint[2], hint[3] = 0, ""
  for side = 0, 1 do
    local newer = {}
    for _, entry in ipairs(hint[5 + side]) do
      if entry[6] > generation then newer[#newer + 1] = entry end
    end
    hint[5 + side] = newer
    call("ZREM", KEYS[3 + side], key)
    if hint[7][1 + side] >= 0 then call("ZADD", KEYS[3 + side], hint[7][1 + side], key) end
  end
  call("HSET", KEYS[5], key, cmsgpack.pack(hint))
  call("ZADD", KEYS[2], now, key)
end

local count = (#ARGV - 2) / 6
local names = {}
for n = 1, count do names[n] = ARGV[6 * n - 3] end
local claimed, hints = call("HMGET", KEYS[6], unpack(names)), call("HMGET", KEYS[5], unpack(names))
local ended, clean, out = {}, {}, {}
for n, key in ipairs(names) do
  local at = 6 * n - 3
  local generation = tonumber(ARGV[at + 1])
  -- A repeat after a lost reply: what it says was recorded, and may have been overtaken since. (Generation 0: nobody claimed it.)
  if generation ~= 0 and tonumber(claimed[n] or -1) ~= generation then
    out[n] = hints[n] and 0 or 1
  else
    record_base(KEYS[9 + tonumber(ARGV[at + 5])], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
    ended[#ended + 1] = key
    local hint = hints[n] and cmsgpack.unpack(hints[n])
    if hint and hint[1] ~= generation then
      keep_newer(key, hint, generation)
      out[n] = 0
    else
      clean[#clean + 1] = key
      out[n] = 1
    end
  end
end
if #ended > 0 then
  for i = 6, 8 do call("HDEL", KEYS[i], unpack(ended)) end
end
if #clean > 0 then
  call("HDEL", KEYS[5], unpack(clean))
  for i = 2, 4 do call("ZREM", KEYS[i], unpack(clean)) end
end
if change ~= 0 then call("INCRBY", KEYS[9], change) end
return out
