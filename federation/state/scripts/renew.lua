-- Extend a lease, or with ttl_ms 0 give it back.
-- KEYS  1 lease
-- ARGV  1 token, 2 ttl_ms
-- Returns 1, or 0 when the token is refused.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == "0" then return redis.call("DEL", KEYS[1]) end
return redis.call("PEXPIRE", KEYS[1], ARGV[2])
