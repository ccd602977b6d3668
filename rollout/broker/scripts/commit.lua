-- COMMIT: the checkpoint is durable. Records it, raises the low watermark, and deletes what lies below: marks and
-- plans. The entries themselves go by DROP, before: a learner that dies in between finds them in its ledger and drops
-- them again. ARGV: incarnation, low watermark, checkpoint, plan numbers. Returns the low watermark.
-- The first write (DEL) passes a full broker and opens the gate for the rest.
local incarnation, lwm, ckpt, pub, plans = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local held = redis.call('GET', incarnation) or '0'
if held ~= ARGV[1] then return redis.error_reply('FENCED ' .. held) end
local old = tonumber(redis.call('GET', lwm) or '0')
local new = math.max(old, tonumber(ARGV[2]))
redis.call('DEL', ckpt)
redis.call('SET', ckpt, ARGV[3])
for seq = old, new - 1 do redis.call('HDEL', pub, seq) end
redis.call('SET', lwm, new)
for i = 4, #ARGV do redis.call('HDEL', plans, ARGV[i]) end
return new
