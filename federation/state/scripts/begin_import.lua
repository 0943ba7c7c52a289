-- Say of a state that nobody uses, or that an import left half-filled, that it is being filled.
-- KEYS  1 meta HASH of the pair
-- ARGV  1 who fills it, then names and values of the fields of a new state
-- Returns 1, or 0 when it is a state in use.
local call = redis.call
if call("HEXISTS", KEYS[1], "epoch") == 1 and call("HEXISTS", KEYS[1], "importing") == 0 then return 0 end
for n = 2, #ARGV, 2 do call("HSETNX", KEYS[1], ARGV[n], ARGV[n + 1]) end
call("HSET", KEYS[1], "importing", ARGV[1])
return 1
