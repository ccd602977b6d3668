-- SET: every fenced write of one value (plan, weights, control, counters). ARGV: incarnation, topic under which it is
-- news ('': it is not), field ('' for a string key), value.
-- The first write (DEL, HDEL) passes a full broker and opens the gate for the second.
local incarnation, news, target = KEYS[1], KEYS[2], KEYS[3]
local topic, field, value = ARGV[2], ARGV[3], ARGV[4]
local held = redis.call('GET', incarnation) or '0'
if held ~= ARGV[1] then return redis.error_reply('FENCED ' .. held) end
if field == '' then
  redis.call('DEL', target)
  redis.call('SET', target, value)
else
  redis.call('HDEL', target, field)
  redis.call('HSET', target, field, value)
end
if topic ~= '' then redis.call('XADD', news, 'MAXLEN', 64, '*', 'topic', topic) end
return 1
