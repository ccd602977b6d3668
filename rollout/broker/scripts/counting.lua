-- Beginning of every script: `count(n, field, by)` adds to a counter of the hash `n`. One that an actor has made
-- unreadable begins anew.
local function count(n, field, by)
  local counted = redis.pcall('HINCRBY', n, field, by)
  if type(counted) == 'table' and counted.err then
    redis.call('HDEL', n, field)
    redis.call('HINCRBY', n, field, by)
  end
end
