-- SET: every fenced write of one value (plan, weights, control, counters). ARGV: incarnation, field ('' for a string key), value.
-- The first write (DEL, HDEL) passes a full broker and opens the gate for the second.
local incarnation, target = KEYS[1], KEYS[2]
local held = redis.call('GET', incarnation) or '0'
if held ~= ARGV[1] then return redis.error_reply('FENCED ' .. held) end
if ARGV[2] == '' then
  redis.call('DEL', target)
  redis.call('SET', target, ARGV[3])
else
  redis.call('HDEL', target, ARGV[2])
  redis.call('HSET', target, ARGV[2], ARGV[3])
end
return 1
