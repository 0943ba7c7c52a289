-- Hand out due keys, oldest first but for some that came due last; they leave the due set until settled, deferred or the lease changes
-- hands.
-- KEYS  1 lease, 2 due ZSET, 3 hint HASH, 4 claimed HASH
-- ARGV  1 token, 2 now_us, 3 limit (at most 1,000), 4 how many of these are the newest, 5 none that came due before, in us
-- The claimed hash keeps the generation that was handed out: what ends another claim of the key has no effect on this one.
-- Returns false when the token is refused, else {key, hint, key, hint, ...}; one that cannot be read has generation 0.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return false end
local newest = tonumber(ARGV[4])
local keys = redis.call("ZRANGEBYSCORE", KEYS[2], ARGV[5], ARGV[2], "LIMIT", 0, ARGV[3] - newest)
if #keys > 0 then redis.call("ZREM", KEYS[2], unpack(keys)) end
if newest > 0 then
  local late = redis.call("ZREVRANGEBYSCORE", KEYS[2], ARGV[2], ARGV[5], "LIMIT", 0, newest)
  if #late > 0 then redis.call("ZREM", KEYS[2], unpack(late)) end
  for _, key in ipairs(late) do keys[#keys + 1] = key end
end
if #keys == 0 then return keys end
local out, claimed = {}, {}
for n, hint in ipairs(redis.call("HMGET", KEYS[3], unpack(keys))) do
  if hint then
    claimed[#claimed + 1] = keys[n]
    local read, known = pcall(cmsgpack.unpack, hint)
    claimed[#claimed + 1] = read and type(known) == "table" and tonumber(known[1]) or 0
    out[#out + 1] = keys[n]
    out[#out + 1] = hint
  end
end
if #claimed > 0 then redis.call("HSET", KEYS[4], unpack(claimed)) end
return out
