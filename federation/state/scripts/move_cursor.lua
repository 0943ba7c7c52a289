-- Compare-and-set of a source's position, and with it how many marks the process that moves it had made by then.
-- KEYS  1 cursor STRING, 2 marks HASH of the pair (source -> marker and its counts by shard)
-- ARGV  1 value it must have ("" none), 2 new value, 3 source, 4 marks
-- Returns 1, or 0 when somebody else moved it.
if (redis.call("GET", KEYS[1]) or "") ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[2])
redis.call("HSET", KEYS[2], ARGV[3], ARGV[4])
return 1
