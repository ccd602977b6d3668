-- RECONCILE: re-issues, at the front, every seq from the low watermark to the cursor, and every one below it that the
-- learner has requeued, that is lost: not known to the learner (trained, retired or buffered), not published and still in
-- `traj` (`sizes` tells, payloads are never read here), not an order in `work` or `work_hi` that somebody has leased or
-- will be given. Such an order may have lost its mark (committed by a checkpoint that proved unreadable), without which
-- no actor would want it. Orders from the seq ARGV[3] on are withdrawn and marked `held`: no group of theirs is taken,
-- and calling it again when their turn has come re-issues them.
-- ARGV: incarnation, version, that seq, number of requeued seqs, they, and the first and last of each interval of known
-- seqs, ascending. Returns how many were re-issued. Calling it again finds them and does nothing. The first write (HDEL)
-- passes a full broker and opens the gate for the rest.
local incarnation, lwm, cursor, pub, sizes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local work, work_hi, n = KEYS[6], KEYS[7], KEYS[8]
local held = redis.call('GET', incarnation) or '0'
if held ~= ARGV[1] then return redis.error_reply('FENCED ' .. held) end

-- Ids are compared as texts: their parts may be larger than a number holds exactly.
local function later(id, other)
  local ms, count = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_count = string.match(other, '^(%d+)-(%d+)$')
  if ms ~= other_ms then return #ms > #other_ms or #ms == #other_ms and ms > other_ms end
  return #count > #other_count or #count == #other_count and count > other_count
end

local from, orders = tonumber(ARGV[3]), {}
redis.call('HDEL', pub, '')
for _, stream in ipairs({work, work_hi}) do
  local leased, given = {}, '0-0'
  for _, lease in ipairs(redis.call('XPENDING', stream, 'actors', '-', '+', 1000000)) do leased[lease[1]] = true end
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    for i = 1, #group, 2 do if group[i] == 'last-delivered-id' then given = group[i + 1] end end
  end
  for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
    local order, fields = {}, entry[2]
    for i = 1, #fields, 2 do order[fields[i]] = fields[i + 1] end
    if (tonumber(order.seq) or 0) >= from then
      redis.call('XACK', stream, 'actors', entry[1])
      redis.call('XDEL', stream, entry[1])
    elseif leased[entry[1]] or later(entry[1], given) then -- else an actor has taken it from another's leases
      orders[(order.seq or '') .. ':' .. (order.attempt or '')] = true
    end
  end
end

local again = 0
local function search(number)
  local seq = string.format('%d', number)
  local mark = redis.call('HGET', pub, seq) or 'open:0'
  local state, attempt, id = string.match(mark, '^(%a+):(%d+):?(.*)$')
  if attempt ~= '0' then state, attempt = 'open', '0' end -- no order has another: an actor may write anything here
  if number >= from then
    if state == 'open' then redis.call('HSET', pub, seq, 'held:' .. attempt) end
  elseif state == 'open' or redis.call('HEXISTS', sizes, id) == 0 then
    redis.call('HSET', pub, seq, 'open:' .. attempt)
    if state ~= 'open' or not orders[seq .. ':' .. attempt] then
      local order = {'seq', seq, 'attempt', attempt, 'incarnation', held, 'min_version', ARGV[2], 'tries', 0}
      redis.call('XADD', work_hi, '*', unpack(order))
      again = again + 1
    end
  end
end

local number, last, requeued = tonumber(redis.call('GET', lwm)), tonumber(redis.call('GET', cursor)) - 1, tonumber(ARGV[4])
for i = 5, 4 + requeued do
  if tonumber(ARGV[i]) < number then search(tonumber(ARGV[i])) end
end
local place = 5 + requeued
while number <= last do
  while place < #ARGV and tonumber(ARGV[place + 1]) < number do place = place + 2 end
  if place < #ARGV and tonumber(ARGV[place]) <= number then
    number = tonumber(ARGV[place + 1])
  else
    search(number)
  end
  number = number + 1
end
if again > 0 then count(n, 'reissued', again) end
return again
