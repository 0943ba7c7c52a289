-- Do the parts of one shard's dirty set fit together? Looks at some keys of one part, all at one moment, and changes nothing: Redis
-- does nothing else meanwhile, some microseconds a key.
-- KEYS  1 due ZSET, 2 since:blob ZSET, 3 since:vast ZSET, 4 hint HASH, 5 claimed HASH, 6 parked HASH
-- ARGV  1 which of KEYS 1 to 5 is walked, 2 cursor (0 begins), 3 how many keys, about
-- Returns {the next cursor (0: that was all), {key, key, ...}, {kind of fault, key, key, ...}, ...}.
local call = redis.call
local part, is_hash = tonumber(ARGV[1]), tonumber(ARGV[1]) >= 4
local names = {"due", "since_blob", "since_vast", "hint", "claimed"}
local faults, order = {}, {}

local function fault(kind, key)
  if not faults[kind] then
    faults[kind] = {kind}
    order[#order + 1] = kind
  end
  table.insert(faults[kind], key)
end

local found = call(is_hash and "HSCAN" or "ZSCAN", KEYS[part], ARGV[2], "COUNT", ARGV[3])
local walked = {}
for n = 1, #found[2], 2 do
  local key = found[2][n]
  walked[#walked + 1] = key
  if part ~= 4 then
    if call("HEXISTS", KEYS[4], key) == 0 then fault(names[part] .. "_without_hint", key) end
  else
    if not call("ZSCORE", KEYS[1], key) and call("HEXISTS", KEYS[5], key) == 0 then fault("never_due", key) end
    if not call("ZSCORE", KEYS[2], key) and not call("ZSCORE", KEYS[3], key) then fault("no_age", key) end
    if call("HEXISTS", KEYS[6], key) == 1 then fault("dirty_and_parked", key) end
  end
end
local out = {found[1], walked}
for _, kind in ipairs(order) do out[#out + 1] = faults[kind] end
return out
