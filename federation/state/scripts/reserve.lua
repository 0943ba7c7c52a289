-- Take deletes out of the pair's budget.
-- KEYS  1 deletes ZSET (a member per delete, scored by its time)
-- ARGV  1 now_us, 2 window_us, 3 limit, 4 unique word, 5 count
-- Returns 1, or 0 when the limit in the window would be passed.
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", tonumber(ARGV[1]) - tonumber(ARGV[2]))
if redis.call("ZCARD", KEYS[1]) + tonumber(ARGV[5]) > tonumber(ARGV[3]) then return 0 end
for n = 1, tonumber(ARGV[5]) do redis.call("ZADD", KEYS[1], ARGV[1], ARGV[4] .. ":" .. n) end
redis.call("PEXPIRE", KEYS[1], math.ceil(tonumber(ARGV[2]) / 1000))
return 1
