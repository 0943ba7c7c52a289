-- Hand out due keys, oldest first but for some that came due last; they leave the due set until settled, deferred or the lease changes hands.
-- KEYS  1 lease, 2 due ZSET, 3 hint HASH, 4 claimed HASH
-- ARGV  1 token, 2 now_us, 3 limit, 4 how many of these are the newest
-- The claimed hash keeps the generation that was handed out: what ends another claim of the key has no effect on this one.
-- Returns false when the token is refused, else {key, hint, key, hint, ...}.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return false end
local out = {}
local newest = tonumber(ARGV[4])
local keys = redis.call("ZRANGEBYSCORE", KEYS[2], "-inf", ARGV[2], "LIMIT", 0, ARGV[3] - newest)
for _, key in ipairs(keys) do redis.call("ZREM", KEYS[2], key) end
if newest > 0 then
  for _, key in ipairs(redis.call("ZREVRANGEBYSCORE", KEYS[2], ARGV[2], "-inf", "LIMIT", 0, newest)) do
    redis.call("ZREM", KEYS[2], key)
    keys[#keys + 1] = key
  end
end
for _, key in ipairs(keys) do
  local hint = redis.call("HGET", KEYS[3], key)
  if hint then
    redis.call("HSET", KEYS[4], key, cmsgpack.unpack(hint)[1])
    out[#out + 1] = key
    out[#out + 1] = hint
  end
end
return out
