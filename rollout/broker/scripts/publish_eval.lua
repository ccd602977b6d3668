-- PUBLISH of an evaluation result. Returns 'done', or 'duplicate' if the lease is not held any more.
-- The first write (XADD) is one that a full broker refuses, so the lease stays when it does.
local eval, evald = KEYS[1], KEYS[2]
local lease = redis.pcall('XPENDING', eval, 'actors', ARGV[1], ARGV[1], 1)
if lease.err or #lease == 0 then return 'duplicate' end -- NOGROUP: lost, and its learner has not come back yet
redis.call('XADD', evald, '*', unpack(ARGV, 2))
redis.call('XACK', eval, 'actors', ARGV[1])
redis.call('XDEL', eval, ARGV[1])
return 'done'
