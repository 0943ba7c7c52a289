-- Make keys of one shard dirty (design 4 and 5).
-- KEYS  1 due ZSET, 2 since:blob ZSET, 3 since:vast ZSET, 4 hint HASH, 5 claimed HASH, 6 parked HASH, 7 seq,
--       8 marks HASH (marker -> how many of its calls were carried out here), 9.. base bucket HASHes of the changes
-- ARGV  1 now_us, 2 marker ("" is not counted), 3 the changes in order, a msgpack array of arrays: key, side (0 blob, 1 vast),
--       source bit, etag ("" unknown), deleted, at_us (-1 unknown), precision_us, origin, not_before_us, place of its bucket
--       from 1, length of its packed etag; 4 of each change 16 bytes of key digest and the packed etag, one after the other
--       (cmsgpack of Redis reads text only), 5 and 6 now by the clocks of blob and of vast, 7 the count the marker knows of
-- At most 1,000 changes a call: what is written is handed to Redis in few commands, and Lua's stack is bounded.
-- Returns {how many changes were not echoes, the marker's count; 0 when the call was not counted}.
local ENTRIES = 4
local ECHO_SLACK_US = 500000
local HEAD_BYTES, DIGEST_BYTES = 64, 16
local RECONCILER = 8 -- its source bit (records.py)
local BEHIND_US = 3600000000 -- progress.SCAN_BEHIND_US
-- A small hash Redis looks through from its front for every field. A field too long for that form
-- ends it for as long as the hash is there; no key is like this one, which is no UTF-8.
local WIDE = string.rep("\255", 65)
local call = redis.call
local now = tonumber(ARGV[1])
local now_of = {[0] = tonumber(ARGV[5]), [1] = tonumber(ARGV[6])}
local marked = 0

-- A record longer than the compact encoding takes is in two fields (records.py).
local function base_of(bucket, digest)
  local head = call("HGET", bucket, digest)
  if head and #head == HEAD_BYTES then return head .. (call("HGET", bucket, digest .. "+") or "") end
  return head
end

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

-- One that is damaged is none: what it told is looked for on both sides.
local function unpack_hint(packed)
  if not packed then return nil end
  local read, hint = pcall(cmsgpack.unpack, packed)
  return read and type(hint) == "table" and type(hint[5]) == "table" and type(hint[6]) == "table" and hint or nil
end

local changes = cmsgpack.unpack(ARGV[3])
local names = {}
for n, change in ipairs(changes) do names[n] = change[1] end
local packed_hints = call("HMGET", KEYS[4], unpack(names))
local hints = {} -- of the keys marked here, as they will be written
local any_claimed, any_parked = call("EXISTS", KEYS[5]) == 1, call("EXISTS", KEYS[6]) == 1
local sequence = tonumber(call("GET", KEYS[7]) or 0)
local due, announced, since = {}, {}, {[0] = {}, [1] = {}}
local binary, start = ARGV[4], 1

for n, change in ipairs(changes) do
  local key, side, source, etag, deleted, at, precision, origin, not_before, bucket, length = unpack(change)
  local from = start
  start = from + DIGEST_BYTES + length
  local hint = hints[key] or unpack_hint(packed_hints[n])
  -- Of a dirty key nothing is an echo yet: its base is about to change, and what is an echo of the new one is seen at the claim.
  local only_scan = source == RECONCILER and not hint
  local echo = false
  if not hint then
    local packed = string.sub(binary, from + DIGEST_BYTES, start - 1)
    local record = base_of(KEYS[8 + bucket], string.sub(binary, from, from + DIGEST_BYTES - 1))
    local read, is = pcall(is_echo, record, side, packed, deleted == 1, at)
    echo = read and is -- of a damaged record nothing is; the claim finds out
  end
  if not echo then
    marked = marked + 1
    hint = hint or {0, 0, "", 0, {}, {}, {-1, -1}}
    local claimed = any_claimed and call("HGET", KEYS[5], key)
    -- Of what was marked after the last claim the earliest time a side: entries of one version keep only the later one.
    if not hint[7] or tonumber(claimed or -1) == hint[1] then hint[7] = {-1, -1} end
    -- By the side's clock, as all times in there are: one that is behind ours would make a change look younger than it is (rule 9).
    -- A time that its side's clock has not reached (a file's may be anything) makes nothing younger than its mark.
    local told_at = at >= 0 and math.min(at, now_of[side]) or now_of[side]
    if hint[7][1 + side] < 0 or told_at < hint[7][1 + side] then hint[7][1 + side] = told_at end
    -- Never the same again in this shard: a settle repeated after a lost reply must not take a newer hint for its own.
    sequence = sequence + 1
    -- Only a scan had found it: now it takes the place of a change that is announced, not that of the scan's backlog.
    local places = (hint[4] == RECONCILER and source ~= RECONCILER) and announced or due
    hint[1] = sequence
    hint[4] = bit.bor(hint[4], source)
    hint[5 + side] = add(hint[5 + side], etag, deleted, at, precision, origin, sequence)
    hints[key] = hint
    local times = since[side]
    times[#times + 1] = told_at
    times[#times + 1] = key
    if not claimed then
      places[#places + 1] = math.max(only_scan and now - BEHIND_US or now, not_before)
      places[#places + 1] = key
    end
  end
end

if marked > 0 then
  local fields = {}
  for key, hint in pairs(hints) do
    fields[#fields + 1] = key
    fields[#fields + 1] = cmsgpack.pack(hint)
  end
  -- At maxmemory Redis refuses the first write, and with it all, if it can add memory: no HDEL or ZREM may come before it.
  local anew = call("EXISTS", KEYS[4]) == 0
  if anew then call("HSET", KEYS[4], WIDE, "") end
  call("HSET", KEYS[4], unpack(fields))
  if anew then call("HDEL", KEYS[4], WIDE) end
  for side = 0, 1 do
    if #since[side] > 0 then call("ZADD", KEYS[2 + side], "LT", unpack(since[side])) end
  end
  if #due > 0 then call("ZADD", KEYS[1], "LT", unpack(due)) end
  if #announced > 0 then call("ZADD", KEYS[1], unpack(announced)) end
  call("SET", KEYS[7], sequence)
  if any_parked then
    for key in pairs(hints) do call("HDEL", KEYS[6], key) end
  end
end
-- A count below what its maker knows of went back: it stays there, so that it is seen whatever is marked since (marks.py).
local counts = ARGV[2] ~= "" and tonumber(call("HGET", KEYS[8], ARGV[2]) or 0) >= tonumber(ARGV[7])
return {marked, counts and call("HINCRBY", KEYS[8], ARGV[2], 1) or 0}
