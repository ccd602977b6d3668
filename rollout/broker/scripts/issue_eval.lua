-- ISSUE of evaluation orders. ARGV: incarnation, serial (rises with every call, so that a repeated one does nothing),
-- then (name, index, version, samples) per order. Returns how many were added. The first write (HSET) is one that a
-- full broker refuses. The serial is kept where no actor may write.
local incarnation, eval, metrics, news = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local held = redis.call('GET', incarnation) or '0'
if held ~= ARGV[1] then return redis.error_reply('FENCED ' .. held) end
if tonumber(redis.call('HGET', metrics, 'eval_serial') or '0') >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', metrics, 'eval_serial', ARGV[2])
for i = 3, #ARGV, 4 do
  local name, index, version, samples = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  redis.call('XADD', eval, '*', 'name', name, 'index', index, 'version', version, 'samples', samples, 'tries', 0)
end
redis.call('XADD', news, 'MAXLEN', 64, '*', 'topic', 'eval')
return (#ARGV - 2) / 4
