-- Make keys of one shard dirty (design 4 and 5).
-- KEYS  1 due ZSET, 2 since:blob ZSET, 3 since:vast ZSET, 4 hint HASH, 5 claimed HASH, 6 parked HASH, 7 seq,
--       8.. base bucket HASHes of the changes
-- ARGV  1 now_us, 2 the changes in order, a msgpack array of arrays: key, side (0 blob, 1 vast), source bit, etag ("" unknown),
--       deleted, at_us (-1 unknown), precision_us, origin, not_before_us, place of its bucket from 1;
--       3.. of each change 16 bytes of key digest and the packed etag (cmsgpack of Redis reads text only)
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

for n, change in ipairs(cmsgpack.unpack(ARGV[2])) do
  local key, side, source, etag, deleted, at, precision, origin, not_before, bucket = unpack(change)
  local digest, packed = string.sub(ARGV[2 + n], 1, 16), string.sub(ARGV[2 + n], 17)
  local record = redis.call("HGET", KEYS[7 + bucket], digest)
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
