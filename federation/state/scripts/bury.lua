-- Keep a dead letter, and drop the oldest beyond the bounds; what is dropped is counted.
-- KEYS  1 STREAM of letters, 2 HASH of their tally: bytes, dropped, newest:<source>
-- ARGV  1 packed letter, 2 source, 3 at_us, 4 most letters, 5 most bytes
redis.call("XADD", KEYS[1], "*", "letter", ARGV[1])
redis.call("HSET", KEYS[2], "newest:" .. ARGV[2], ARGV[3])
local bytes = redis.call("HINCRBY", KEYS[2], "bytes", #ARGV[1])
while redis.call("XLEN", KEYS[1]) > tonumber(ARGV[4]) or bytes > tonumber(ARGV[5]) do
  local oldest = redis.call("XRANGE", KEYS[1], "-", "+", "COUNT", 1)[1]
  if not oldest then break end
  redis.call("XDEL", KEYS[1], oldest[1])
  bytes = redis.call("HINCRBY", KEYS[2], "bytes", -#oldest[2][2])
  redis.call("HINCRBY", KEYS[2], "dropped", 1)
end
