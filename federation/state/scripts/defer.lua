-- Keep a claimed key dirty, to be tried again later; at once when it was marked meanwhile.
-- KEYS  1 lease, 2 due ZSET, 3 hint HASH, 4 claimed HASH, 5 seq
-- ARGV  1 token, 2 key, 3 generation, 4 not_before_us, 5 error, 6 count_attempt, 7 now_us
-- Returns false when the token is refused, else 1.
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return false end
if redis.call("HGET", KEYS[4], ARGV[2]) ~= ARGV[3] then return 1 end -- a repeat: another claim may have begun
local packed = redis.call("HGET", KEYS[3], ARGV[2])
redis.call("HDEL", KEYS[4], ARGV[2])
if not packed then return 1 end
local hint = cmsgpack.unpack(packed)
local due = tonumber(ARGV[4])
if hint[1] ~= tonumber(ARGV[3]) then due = math.min(due, tonumber(ARGV[7])) end
hint[2], hint[3] = hint[2] + tonumber(ARGV[6]), ARGV[5]
-- The next claim is told from this one, which a repeat of this call must not take for its own.
hint[1] = redis.call("INCR", KEYS[5])
redis.call("HSET", KEYS[3], ARGV[2], cmsgpack.pack(hint))
redis.call("ZADD", KEYS[2], due, ARGV[2])
return 1
