-- Do the parts of one shard's dirty set fit together? Changes nothing. Redis does nothing else meanwhile: microseconds a dirty key.
-- KEYS  1 due ZSET, 2 since:blob ZSET, 3 since:vast ZSET, 4 hint HASH, 5 claimed HASH, 6 parked HASH
-- ARGV  1 most keys to name of each kind
-- Returns of each kind of fault found {kind, how many, key, key, ...}.
local call = redis.call
local faults, order = {}, {}

local function fault(kind, key)
  if not faults[kind] then
    faults[kind] = {kind, 0}
    order[#order + 1] = kind
  end
  local told = faults[kind]
  told[2] = told[2] + 1
  if #told < 2 + tonumber(ARGV[1]) then told[#told + 1] = key end
end

for _, key in ipairs(call("HKEYS", KEYS[4])) do
  if not call("ZSCORE", KEYS[1], key) and call("HEXISTS", KEYS[5], key) == 0 then fault("never_due", key) end
  if not call("ZSCORE", KEYS[2], key) and not call("ZSCORE", KEYS[3], key) then fault("no_age", key) end
  if call("HEXISTS", KEYS[6], key) == 1 then fault("dirty_and_parked", key) end
end
local parts = {due = call("ZRANGE", KEYS[1], 0, -1), claimed = call("HKEYS", KEYS[5])}
parts.since_blob, parts.since_vast = call("ZRANGE", KEYS[2], 0, -1), call("ZRANGE", KEYS[3], 0, -1)
for _, name in ipairs({"due", "claimed", "since_blob", "since_vast"}) do
  for _, key in ipairs(parts[name]) do
    if call("HEXISTS", KEYS[4], key) == 0 then fault(name .. "_without_hint", key) end
  end
end
local out = {}
for n, kind in ipairs(order) do out[n] = faults[kind] end
return out
