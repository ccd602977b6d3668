-- REAP: takes away all leases of an actor whose record is still the one the caller saw stand still.
-- Orders go to the front with one more try; after `max_tries` a `tombstone` in `traj` retires the seq (the learner's
-- ledger must see it), and one in `evald` ends an evaluation order. Returns how many leases were taken, -1 if the record
-- has moved.
-- The first write is HDEL or XACK, which pass a full broker and open the gate for the rest.
local actors, work, work_hi, eval, traj, evald = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local pub, sizes, n, news = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local who, seen, max_tries = ARGV[1], ARGV[2], tonumber(ARGV[3])

if (redis.call('HGET', actors, who) or '') ~= seen then return -1 end
if seen ~= '' and string.sub(seen, 1, 1) ~= '!' then
  redis.call('HDEL', actors, who)
  redis.call('HSET', actors, who, '!' .. seen) -- so that it learns of it at its next heartbeat
  count(n, 'deaths', 1)
end
local moved = 0
for _, stream in ipairs({work, work_hi, eval}) do
  local leases = redis.pcall('XPENDING', stream, 'actors', '-', '+', 1000, who)
  for _, lease in ipairs(leases.err and {} or leases) do -- NOGROUP: lost, and its learner has not come back yet
    local entry = redis.call('XRANGE', stream, lease[1], lease[1])[1]
    redis.call('XACK', stream, 'actors', lease[1])
    redis.call('XDEL', stream, lease[1])
    if entry and #entry[2] > 64 then entry = nil end -- no order: an actor may add anything
    local order, fields = {}, entry and entry[2] or {}
    for i = 1, #fields, 2 do order[fields[i]] = fields[i + 1] end
    local tries = (tonumber(order.tries) or 0) + 1
    for i = 1, #fields, 2 do if fields[i] == 'tries' then fields[i + 1] = tries end end
    local open = order.seq and redis.call('HGET', pub, order.seq) == 'open:' .. (order.attempt or '')
    local detail = tries .. ' leases died'
    local header = {'kind', 'tombstone', 'actor', who, 'reason', 'tries', 'detail', detail, unpack(fields)}
    if stream == eval and entry and tries < max_tries then
      redis.call('XADD', eval, '*', unpack(fields))
      redis.call('XADD', news, 'MAXLEN', 64, '*', 'topic', 'eval')
    elseif stream == eval and entry then
      redis.call('XADD', evald, '*', unpack(header))
    elseif open and tries < max_tries then
      redis.call('XADD', work_hi, '*', unpack(fields))
    elseif open then
      local id = redis.call('XADD', traj, '*', unpack(header))
      redis.call('HSET', pub, order.seq, 'done:' .. order.attempt .. ':' .. id)
      redis.call('HSET', sizes, id, 0)
      count(n, 'tombstones', 1)
    end
    moved = moved + 1
  end
end
if moved > 0 then count(n, 'reaped', moved) end
return moved
