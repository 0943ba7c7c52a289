-- Replace a held record by one with a verdict, if the delete is still held.
-- KEYS  1 held HASH
-- ARGV  1 key, 2 record as it was read, 3 record with the verdict
-- Returns 1, or 0 when it is not held any more or changed meanwhile.
if redis.call("HGET", KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call("HSET", KEYS[1], ARGV[1], ARGV[3])
return 1
