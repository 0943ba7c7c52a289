-- Write one field: a record or a note of the pair, or what a process tells others of an endpoint.
-- KEYS  1 HASH
-- ARGV  1 name, 2 value, 3 "first" keeps what is there
-- Also at maxmemory, as settle.lua says: what is at work needs them to end, and they are few.
redis.call("HDEL", KEYS[1], "")
redis.call(ARGV[3] == "first" and "HSETNX" or "HSET", KEYS[1], ARGV[1], ARGV[2])
