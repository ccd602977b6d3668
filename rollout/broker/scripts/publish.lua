-- PUBLISH: adds a finished group, or the `tombstone` of one that cannot be made, to `traj`, once.
-- Returns 'done'; 'duplicate' if the seq is not open for this attempt any more (the lease is released either way);
-- 'later' if the broker has lost the run and its learner has not come back yet.
-- The first write (XADD) is one that a full broker refuses, so nothing has changed when it does.
local pub, cursor, traj, sizes, n, work = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local lease, seq, attempt, size, counter = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local next_seq = redis.call('GET', cursor)
if not next_seq then return 'later' end
local result = 'duplicate'
if tonumber(seq) < tonumber(next_seq) and redis.call('HGET', pub, seq) == 'open:' .. attempt then
  local id = redis.call('XADD', traj, '*', unpack(ARGV, 6))
  redis.call('HSET', pub, seq, 'done:' .. attempt .. ':' .. id)
  redis.call('HSET', sizes, id, size)
  count(n, 'bytes', size)
  result = 'done'
end
redis.call('XACK', work, 'actors', lease)
redis.call('XDEL', work, lease)
count(n, result == 'done' and counter or 'duplicates', 1)
return result
