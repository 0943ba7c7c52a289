-- Remove a note that nobody has written since it was read.
-- KEYS  1 notes HASH of the pair (name -> value)
-- ARGV  1 name, 2 value it must have
-- Returns 1, or 0 when it has another value by now, or is gone.
if redis.call("HGET", KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call("HDEL", KEYS[1], ARGV[1])
