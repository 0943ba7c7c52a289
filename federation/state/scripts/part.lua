-- Remember a part that arrived of the transfer that is recorded.
-- KEYS  1 lease, 2 transfers HASH, 3 parts HASH of this key
-- ARGV  1 token, 2 key, 3 part number, 4 part
-- Returns false when the token is refused, else 1.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return false end
-- Also at maxmemory, as settle.lua says.
redis.call("HDEL", KEYS[3], "")
if redis.call("HEXISTS", KEYS[2], ARGV[2]) == 1 then redis.call("HSET", KEYS[3], ARGV[3], ARGV[4]) end
return 1
