-- HEARTBEAT: writes an actor's record, with the server's time. ARGV: actor, record, boot of its process, and a record of
-- another process that it may replace, because it stood still. Returns 1 and the record of whoever revokes leases, which
-- every actor watches; 0 if its leases were revoked meanwhile ('!'); the record of another process that has the same id.
-- The latter two change nothing.
-- The first write (HDEL) passes a full broker: an actor must not look dead because the broker is full.
local actors, reaper = KEYS[1], KEYS[2]
local who, record, boot, still = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known = redis.call('HGET', actors, who)
if known and string.sub(known, 1, 1) == '!' then return 0 end
if known and known ~= still and string.find(known, '"boot":"', 1, true) then
  if not string.find(known, '"boot":"' .. boot .. '"', 1, true) then return known end
end
local now = redis.call('TIME')
redis.call('HDEL', actors, who)
redis.call('HSET', actors, who, string.sub(record, 1, -2) .. ',"at_ms":' .. now[1] .. string.format('%03d', math.floor(now[2] / 1000)) .. '}')
return {1, redis.call('HGET', reaper, 'record') or ''}
