-- Take a delete out of the pair's budget, or an undone write out of its key's.
-- KEYS  1 deletes or reverts ZSET (a member for each, scored by its time)
-- ARGV  1 now_us, 2 window_us, 3 name of the delete, 4 count, 5 share, 6 floor, 7 objects known now
-- Returns 1, also when this delete was granted before in the window, or 0 when the limit would be passed. The limit is that of
-- guards.delete_limit: the share is of the objects there were, those deleted in the window included.
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", tonumber(ARGV[1]) - tonumber(ARGV[2]))
if redis.call("ZSCORE", KEYS[1], ARGV[3]) then return 1 end
local granted = redis.call("ZCARD", KEYS[1])
local share = math.floor((tonumber(ARGV[7]) + granted) * tonumber(ARGV[5]))
if granted >= math.min(tonumber(ARGV[4]), math.max(tonumber(ARGV[6]), share)) then return 0 end
redis.call("ZADD", KEYS[1], ARGV[1], ARGV[3])
redis.call("PEXPIRE", KEYS[1], math.ceil(tonumber(ARGV[2]) / 1000))
return 1
