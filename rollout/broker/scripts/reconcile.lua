-- RECONCILE: re-issues, at the front, every seq from the low watermark to the cursor, and every one below it that the
-- learner has requeued (ARGV[4…]: their number, they), that is lost: not known to the learner (ARGV: trained, retired or
-- buffered), not published and still in `traj` (`sizes` tells, payloads are
-- never read here), not an order in `work` or `work_hi`. Such an order may have lost its mark (committed by a checkpoint
-- that proved unreadable), without which no actor would want it. Orders from the seq ARGV[3] on are withdrawn and marked
-- `held`: no group of theirs is taken, and calling it again when their turn has come re-issues them. Returns how many
-- were re-issued. Calling it again finds them and does nothing. The first write (HDEL) passes a full broker and opens the gate for the rest.
local incarnation, lwm, cursor, pub, sizes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local work, work_hi, n = KEYS[6], KEYS[7], KEYS[8]
local held = redis.call('GET', incarnation) or '0'
if held ~= ARGV[1] then return redis.error_reply('FENCED ' .. held) end

local low, from, requeued = tonumber(redis.call('GET', lwm)), tonumber(ARGV[3]), tonumber(ARGV[4])
local known, orders, open = {}, {}, {}
for i = 5 + requeued, #ARGV do known[ARGV[i]] = true end
for i = 5, 4 + requeued do
  if tonumber(ARGV[i]) < low then open[#open + 1] = tonumber(ARGV[i]) end
end
for number = low, tonumber(redis.call('GET', cursor)) - 1 do open[#open + 1] = number end
for _, stream in ipairs({work, work_hi}) do
  for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
    local order, fields = {}, entry[2]
    for i = 1, #fields, 2 do order[fields[i]] = fields[i + 1] end
    if (tonumber(order.seq) or 0) >= from then
      redis.call('XACK', stream, 'actors', entry[1])
      redis.call('XDEL', stream, entry[1])
    else
      orders[(order.seq or '') .. ':' .. (order.attempt or '')] = true
    end
  end
end
local again = 0
redis.call('HDEL', pub, '')
for _, number in ipairs(open) do
  local seq = string.format('%d', number)
  if not known[seq] then
    local mark = redis.call('HGET', pub, seq) or 'open:0'
    local state, attempt, id = string.match(mark, '^(%a+):(%d+):?(.*)$')
    if not state or #attempt > 9 then state, attempt = 'open', '0' end -- an actor may write anything here
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
end
if again > 0 then count(n, 'reissued', again) end
return again
