-- Note one half of a rename, a content that a key was created or deleted with, and tell which deletes have their other half.
-- KEYS  1 HASH of this half in this window (content -> key), 2 and 3 HASHes of the other half in this window and the one before
-- ARGV  1 content, 2 key, 3 "created" or "deleted", 4 most fields a hash may have, 5 ttl_ms
-- Returns the keys whose deletes were renames.
-- Also at maxmemory, as settle.lua says.
redis.call("HDEL", KEYS[1], "")
local content, key, out = ARGV[1], ARGV[2], {}
if redis.call("HEXISTS", KEYS[1], content) == 1 or redis.call("HLEN", KEYS[1]) < tonumber(ARGV[4]) then
  redis.call("HSET", KEYS[1], content, key)
  redis.call("PEXPIRE", KEYS[1], ARGV[5])
end
for i = 2, 3 do
  local found = redis.call("HGET", KEYS[i], content)
  if found and found ~= key then out[#out + 1] = ARGV[3] == "created" and found or key end
end
return out
