-- Begin a state that is not there. One that an older program began in two steps, and died between them, gets what it lacks.
-- KEYS  1 meta HASH of the pair
-- ARGV  names and values of the fields of a new state
-- Returns 1 when it was not there.
local call = redis.call
local new = 1 - call("HEXISTS", KEYS[1], "epoch")
for n = 1, #ARGV, 2 do call("HSETNX", KEYS[1], ARGV[n], ARGV[n + 1]) end
return new
