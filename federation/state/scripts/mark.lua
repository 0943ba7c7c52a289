-- Make keys of one shard dirty (design 4 and 5).
-- KEYS  1 due ZSET, 2 since:blob ZSET, 3 since:vast ZSET, 4 hint HASH, 5 claimed HASH, 6 parked HASH, 7 seq,
--       8.. base bucket HASH of each change, in order
-- ARGV  1 now_us, then 11 for each change: key, side (0 blob, 1 vast), source bit, etag ("" unknown), packed etag, deleted,
--       at_us (-1 unknown), precision_us, origin, not_before_us, key digest
-- Returns how many changes were not echoes.
local ENTRIES = 4
local ECHO_SLACK_US = 500000
local now = tonumber(ARGV[1])
local marked = 0

-- Whether the change is the agreed version come back: our own write, or a repeat (rule 7). On VAST an ETag is a content hash,
-- so a change that is later than the time as of which we know that version is news (model.Base.told_by; records.py: the layout).
local function is_echo(record, side, packed, deleted, at)
  if not record then return false end
  if string.byte(record, 1) % 2 == 1 then return deleted end
  if deleted or packed == "" then return false end
  local length = string.byte(record, 2)
  local etag = string.sub(record, 3, 2 + length)
  local next_at = 3 + length
  if side == 1 then
    length = string.byte(record, next_at)
    etag = string.sub(record, next_at + 1, next_at + length)
    next_at = next_at + 1 + length
  end
  if etag ~= packed then return false end
  if side == 0 or at < 0 then return true end
  local as_of = 0
  for i = next_at, next_at + 5 do as_of = as_of * 256 + string.byte(record, i) end
  return at <= as_of * 1000 + ECHO_SLACK_US
end

-- Of two times of one version the later counts, since it decides what can be an echo; of two that may be one moment the more precise.
local function keep_first(at, precision, other_at, other_precision)
  if at < 0 or other_at < 0 then return other_at < 0 end
  if math.abs(at - other_at) < math.max(precision, other_precision) and precision ~= other_precision then
    return precision < other_precision
  end
  return at > other_at
end

-- Keep one entry a version with one time; too many versions become one of unknown version, never taken for an echo.
local function add(entries, etag, deleted, at, precision, origin, generation)
  for i, entry in ipairs(entries) do
    if entry[1] == etag and entry[2] == deleted then
      if keep_first(entry[3], entry[4], at, precision) then at, precision, origin = entry[3], entry[4], entry[5] end
      table.remove(entries, i)
      break
    end
  end
  entries[#entries + 1] = {etag, deleted, at, precision, origin, generation}
  if #entries <= ENTRIES then return entries end
  local oldest = {"", 0, -1, 0, 0, generation}
  for _, entry in ipairs(entries) do
    if entry[3] >= 0 and (oldest[3] < 0 or entry[3] < oldest[3]) then
      oldest = {"", 0, entry[3], entry[4], entry[5], generation}
    end
  end
  return {oldest}
end

for n = 0, (#ARGV - 1) / 11 - 1 do
  local a = 1 + n * 11
  local key, side, source = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local etag, packed, deleted = ARGV[a + 4], ARGV[a + 5], tonumber(ARGV[a + 6])
  local at, precision, origin = tonumber(ARGV[a + 7]), tonumber(ARGV[a + 8]), tonumber(ARGV[a + 9])
  local not_before, digest = tonumber(ARGV[a + 10]), ARGV[a + 11]
  local record = redis.call("HGET", KEYS[8 + n], digest)
  local known = redis.call("HGET", KEYS[4], key)
  -- Of a dirty key nothing is an echo yet: its base is about to change, and what is an echo of the new one is seen at the claim.
  if known or not is_echo(record, side, packed, deleted == 1, at) then
    marked = marked + 1
    local hint = known and cmsgpack.unpack(known) or {0, 0, "", 0, {}, {}, {-1, -1}}
    local claimed = redis.call("HGET", KEYS[5], key)
    -- Of what was marked after the last claim the earliest time a side: entries of one version keep only the later one.
    if not hint[7] or tonumber(claimed or -1) == hint[1] then hint[7] = {-1, -1} end
    local since = at >= 0 and at or now
    if hint[7][1 + side] < 0 or since < hint[7][1 + side] then hint[7][1 + side] = since end
    -- Never the same again in this shard: a settle repeated after a lost reply must not take a newer hint for its own.
    hint[1] = redis.call("INCR", KEYS[7])
    hint[4] = bit.bor(hint[4], source)
    hint[5 + side] = add(hint[5 + side], etag, deleted, at, precision, origin, hint[1])
    redis.call("HSET", KEYS[4], key, cmsgpack.pack(hint))
    redis.call("ZADD", KEYS[2 + side], "LT", since, key)
    if not claimed then
      redis.call("ZADD", KEYS[1], "LT", math.max(now, not_before), key)
    end
    redis.call("HDEL", KEYS[6], key)
  end
end
return marked
