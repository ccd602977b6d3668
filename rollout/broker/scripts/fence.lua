-- FENCE: a learner takes over. Refuses an older incarnation, another learner of the same one, on a copy of its claims
-- (ARGV[7] is its nonce), and a run name that belongs to another configuration.
-- Raises the cursor, sets the low watermark to the loaded checkpoint's (also downwards: after a fall-back to an older
-- checkpoint RECONCILE must look from there on), makes every key that actors must not create themselves, deletes those
-- that an actor has made unusable (KEYS from the fifth on are all that actors may write), and adds the bytes up anew: a
-- count that was too large would close admission above the budget for ever.
-- Returns the cursor. Calling it again with the same incarnation is harmless, and is how a live learner meets a broker
-- that came back.
local incarnation, holder, ckpt, lwm = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local meta, ctl, weights, cursor, pub, sizes, n = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local turns, work, work_hi, eval, evald, traj, news = KEYS[14], KEYS[17], KEYS[18], KEYS[19], KEYS[20], KEYS[21], KEYS[22]
local mine, low, next_seq, digest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[6]
local nonce = ARGV[7]

local held = tonumber(redis.call('GET', incarnation) or '0')
if held > mine then return redis.error_reply('FENCED ' .. held) end
if held == mine and (redis.call('GET', holder) or nonce) ~= nonce then return redis.error_reply('CLAIMED ' .. held) end
mend(5)
local known = redis.call('GET', meta)
if known and known ~= '' then
  local other = cjson.decode(known).config_digest
  if other ~= digest then return redis.error_reply('DIGEST ' .. other) end
end
redis.call('DEL', incarnation) -- a write that passes a full broker opens the gate for the rest
redis.call('SET', incarnation, mine)
redis.call('SET', holder, nonce)
if mine > held then redis.call('DEL', eval, evald, turns) end -- evaluations belong to one incarnation's versions
for seq = tonumber(redis.call('GET', lwm) or low), low - 1 do redis.call('HDEL', pub, seq) end
redis.call('SET', lwm, low)
next_seq = math.max(next_seq, tonumber(redis.call('GET', cursor) or '0'))
redis.call('SET', cursor, next_seq)
redis.call('SET', meta, ARGV[4])
redis.call('SET', ctl, ARGV[5])
redis.call('SETNX', weights, '')
redis.call('SETNX', ckpt, '')
for i, stream in ipairs({work, work_hi, eval, traj, evald}) do
  local made = redis.pcall('XGROUP', 'CREATE', stream, i <= 3 and 'actors' or 'learner', '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
end
local bytes = 0
for i, size in ipairs(redis.call('HGETALL', sizes)) do bytes = bytes + (i % 2 == 0 and tonumber(size) or 0) end
bytes = string.format('%.0f', bytes)
if bytes ~= (redis.call('HGET', n, 'bytes') or '0') then redis.call('HSET', n, 'bytes', bytes) end
for _, topic in ipairs({'control', 'eval'}) do redis.call('XADD', news, 'MAXLEN', 64, '*', 'topic', topic) end
return next_seq
