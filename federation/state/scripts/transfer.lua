-- Remember that a large transfer began, or forget it; either way the parts of an earlier one go.
-- KEYS  1 lease, 2 transfers HASH, 3 parts HASH of this key
-- ARGV  1 token, 2 key, 3 record ("" forgets)
-- Returns false when the token is refused, else 1.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return false end
redis.call("DEL", KEYS[3])
if ARGV[3] == "" then redis.call("HDEL", KEYS[2], ARGV[2]) else redis.call("HSET", KEYS[2], ARGV[2], ARGV[3]) end
return 1
