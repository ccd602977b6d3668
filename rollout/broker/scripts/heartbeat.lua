-- HEARTBEAT: writes an actor's record. Returns 0, and changes nothing, if its leases were taken away meanwhile ('!').
-- The first write (HDEL) passes a full broker: an actor must not look dead because the broker is full.
local record = redis.call('HGET', KEYS[1], ARGV[1])
if record and string.sub(record, 1, 1) == '!' then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
