-- ISSUE: opens as many new orders as admission allows, at most `most` per call; returns the cursor.
-- issue allowed <=> cursor < (lag + trained + 1) * prompts_per_batch + retired, cursor < limit, state = run, and either
-- bytes <= budget or cursor < needed, the seqs without which the next batch is never complete: nothing but a trained
-- batch may free the budget. The first write (SET) is one that a full broker refuses, so an order is either whole or not
-- there.
local incarnation, cursor, ctl, n, pub, work = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local trained, retired, limit = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local prompts_per_batch, max_bytes, min_version, most = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local needed = tonumber(ARGV[9])

local held = redis.call('GET', incarnation) or '0'
if held ~= ARGV[1] then return redis.error_reply('FENCED ' .. held) end
local control = cjson.decode(redis.call('GET', ctl))
local lag = control.mode == 'on_policy' and 0 or control.max_lag
local first = tonumber(redis.call('GET', cursor))
local bound = math.min(limit, (lag + trained + 1) * prompts_per_batch + retired, first + most)
local bytes = tonumber(redis.call('HGET', n, 'bytes') or '0') or 0
if bytes > max_bytes then bound = math.min(bound, needed) end
if control.state ~= 'run' or first >= bound then return first end
redis.call('SET', cursor, bound)
for seq = first, bound - 1 do
  redis.call('HSET', pub, seq, 'open:0')
  redis.call('XADD', work, '*', 'seq', seq, 'attempt', 0, 'incarnation', held, 'min_version', min_version, 'tries', 0)
end
count(n, 'issued', bound - first)
return bound
