-- Who reads a source or does another task that one process at a time does: take it, keep it, or with ttl_ms 0 give it back.
-- KEYS  1 owners HASH of the pair: task -> "<until in ms of Redis' own clock> <owner>"
-- ARGV  1 task, 2 owner, 3 ttl_ms
-- Returns 1 when the task is now the owner's (or, given back, nobody's), 0 when another has it.
-- Also at maxmemory, as settle.lua says.
redis.call("HDEL", KEYS[1], "")
local FORGET_MS = 3600000
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entry = redis.call("HGET", KEYS[1], ARGV[1])
if entry then
  local space = string.find(entry, " ", 1, true)
  local live = tonumber(string.sub(entry, 1, space - 1)) > now
  if live and string.sub(entry, space + 1) ~= ARGV[2] then return 0 end
end
if ARGV[3] == "0" then
  redis.call("HDEL", KEYS[1], ARGV[1])
else
  if not entry and string.find(ARGV[1], ARGV[2], 1, true) then
    -- A task of its owner's name, which nobody else ever takes up: those of killed processes would stay for ever.
    local all = redis.call("HGETALL", KEYS[1])
    for n = 1, #all, 2 do
      local ended = tonumber(string.match(all[n + 1], "^%d+"))
      if ended < now - FORGET_MS then redis.call("HDEL", KEYS[1], all[n]) end
    end
  end
  redis.call("HSET", KEYS[1], ARGV[1], string.format("%.0f %s", now + tonumber(ARGV[3]), ARGV[2]))
end
return 1
