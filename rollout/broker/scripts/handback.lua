-- HAND BACK: releases leases; the orders go to the front with the same attempt and tries. Evaluation orders are news:
-- nobody is blocked in a read of theirs.
-- ARGV: (stream 1|2|3, entry id) per order. Returns how many were still held.
local news, moved, told = KEYS[4], 0, false
for i = 1, #ARGV, 2 do
  local which, id = tonumber(ARGV[i]), ARGV[i + 1]
  local entry = redis.call('XRANGE', KEYS[which], id, id)[1]
  local held = redis.call('XACK', KEYS[which], 'actors', id)
  redis.call('XDEL', KEYS[which], id)
  if entry and held == 1 and #entry[2] <= 64 then -- else no order: an actor may add anything
    redis.call('XADD', which == 3 and KEYS[3] or KEYS[2], '*', unpack(entry[2]))
    moved = moved + 1
    told = told or which == 3
  end
end
if told then redis.call('XADD', news, 'MAXLEN', 64, '*', 'topic', 'eval') end
return moved
