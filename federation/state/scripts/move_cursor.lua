-- Compare-and-set of a source's position.
-- KEYS  1 cursor STRING
-- ARGV  1 value it must have ("" none), 2 new value
-- Returns 1, or 0 when somebody else moved it.
if (redis.call("GET", KEYS[1]) or "") ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[2])
return 1
