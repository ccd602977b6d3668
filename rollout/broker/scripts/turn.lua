-- TURN: whether the caller is the actor that loads older weights for an evaluation: the first that asked, until its
-- record is gone. ARGV: version, actor. Returns 1 or 0. The first write (HDEL) passes a full broker.
local turns, actors, version, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local holder = redis.call('HGET', turns, version)
local record = holder and holder ~= me and redis.call('HGET', actors, holder)
if record and string.sub(record, 1, 1) ~= '!' then return 0 end
redis.call('HDEL', turns, version)
redis.call('HSET', turns, version, me)
return 1
