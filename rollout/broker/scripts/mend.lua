-- MEND: deletes what actors have made unusable; returns the names. ARGV: incarnation. Whoever calls it fences again, which
-- makes these keys anew, and reads everything.
local held = redis.call('GET', KEYS[1]) or '0'
if held ~= ARGV[1] then return redis.error_reply('FENCED ' .. held) end
return mend(2)
