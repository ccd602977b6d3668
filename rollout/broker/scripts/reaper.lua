-- REAPER: says who revokes leases now. ARGV: the record to write, and the one it may replace ('*': any). Returns 1; 0 if
-- another was faster. The first write (HDEL) passes a full broker.
if ARGV[2] ~= '*' and (redis.call('HGET', KEYS[1], 'record') or '') ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], 'record')
redis.call('HSET', KEYS[1], 'record', ARGV[1])
return 1
