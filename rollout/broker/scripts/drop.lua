-- DROP: deletes entries of `traj`, or of another stream given as KEYS[5], that need no further trace (duplicates, or
-- covered by a checkpoint). ARGV: incarnation, ids. Returns how many were there. The first write (XDEL) passes a full
-- broker.
local incarnation, traj, sizes, n = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stream = KEYS[5] or traj
local held = redis.call('GET', incarnation) or '0'
if held ~= ARGV[1] then return redis.error_reply('FENCED ' .. held) end
local gone = 0
for i = 2, #ARGV do
  local deleted = redis.pcall('XDEL', stream, ARGV[i])
  if type(deleted) == 'number' then
    redis.call('XACK', stream, 'learner', ARGV[i])
    gone = gone + deleted
  elseif not string.find(deleted.err, 'Invalid stream ID', 1, true) then -- an actor may write anything into `sizes`
    return deleted
  end
  local size = stream == traj and redis.call('HGET', sizes, ARGV[i])
  if size then
    redis.call('HDEL', sizes, ARGV[i])
    count(n, 'bytes', string.match(size, '^%d+$') and #size < 16 and 0 - size or 0) -- an actor may write anything here
  end
end
return gone
