-- Note the base that will hold once a first copy or a delete is done (docs/adr/0002).
-- KEYS  1 lease, 2 intent HASH
-- ARGV  1 token, 2 key, 3 base record
-- Returns false when the token is refused, else 1.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return false end
-- Also at maxmemory, as settle.lua says.
redis.call("HDEL", KEYS[2], "")
redis.call("HSET", KEYS[2], ARGV[2], ARGV[3])
return 1
