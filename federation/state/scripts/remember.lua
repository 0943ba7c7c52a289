-- Remember that deletes of these keys were halves of renames; the oldest go beyond the bound.
-- KEYS  1 renames ZSET of the pair
-- ARGV  1 now_us, 2 most that are kept, 3.. keys
-- Also at maxmemory, as settle.lua says.
redis.call("ZREM", KEYS[1], "")
for n = 3, #ARGV do redis.call("ZADD", KEYS[1], ARGV[1], ARGV[n]) end
redis.call("ZREMRANGEBYRANK", KEYS[1], 0, -ARGV[2] - 1)
