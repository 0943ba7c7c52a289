-- Take a free shard. What a dead owner had claimed becomes due at once.
-- KEYS  1 lease, 2 epoch, 3 due ZSET, 4 claimed HASH
-- ARGV  1 token, 2 ttl_ms, 3 now_us
-- Returns false when the shard is taken, else the fencing number.
-- Also at maxmemory, as settle.lua says.
redis.call("ZREM", KEYS[3], "")
if not redis.call("SET", KEYS[1], ARGV[1], "NX", "PX", ARGV[2]) then return false end
for _, key in ipairs(redis.call("HKEYS", KEYS[4])) do redis.call("ZADD", KEYS[3], ARGV[3], key) end
redis.call("DEL", KEYS[4])
return redis.call("INCR", KEYS[2])
