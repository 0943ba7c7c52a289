-- Replace a field that nobody has written since it was read.
-- KEYS  1 HASH: held deletes of a shard, or what the cursors or scans of the pair stand for
-- ARGV  1 field, 2 value as it was read, 3 new value
-- Returns 1, or 0 when it has another value by now, or is gone.
if redis.call("HGET", KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call("HSET", KEYS[1], ARGV[1], ARGV[3])
return 1
