-- Move a claimed key from the dirty set to parked or held; no effect but "due now" when it was marked meanwhile.
-- KEYS  1 lease, 2 due ZSET, 3 since:blob ZSET, 4 since:vast ZSET, 5 hint HASH, 6 claimed HASH, 7 parked or held HASH
-- ARGV  1 token, 2 key, 3 generation, 4 record, 5 now_us
-- Returns false when the token is refused, 1 when moved, 0 when marked meanwhile.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return false end
if redis.call("HGET", KEYS[6], ARGV[2]) ~= ARGV[3] then return 0 end -- a repeat: another claim may have begun
local packed = redis.call("HGET", KEYS[5], ARGV[2])
redis.call("HDEL", KEYS[6], ARGV[2])
if not packed then return 0 end
local read, hint = pcall(cmsgpack.unpack, packed)
-- One that cannot be read was handed out as generation 0.
if (read and type(hint) == "table" and tonumber(hint[1]) or 0) ~= tonumber(ARGV[3]) then
  redis.call("ZADD", KEYS[2], ARGV[5], ARGV[2])
  return 0
end
redis.call("HDEL", KEYS[5], ARGV[2])
for i = 2, 4 do redis.call("ZREM", KEYS[i], ARGV[2]) end
redis.call("HSET", KEYS[7], ARGV[2], ARGV[4])
return 1
