-- Make due again what is claimed and not at work: its end was forgotten in a failover.
-- KEYS  1 lease, 2 due ZSET, 3 hint HASH, 4 claimed HASH
-- ARGV  1 token, 2 now_us, 3.. keys at work
-- Returns false when the token is refused, else how many.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return false end
local at_work = {}
for i = 3, #ARGV do at_work[ARGV[i]] = true end
local found = 0
for _, key in ipairs(redis.call("HKEYS", KEYS[4])) do
  if not at_work[key] then
    redis.call("HDEL", KEYS[4], key)
    if redis.call("HEXISTS", KEYS[3], key) == 1 then
      redis.call("ZADD", KEYS[2], ARGV[2], key)
      found = found + 1
    end
  end
end
return found
