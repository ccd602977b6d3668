-- CHECK: after taking orders, which are still wanted? ARGV: (stream 1|2, entry id, seq, attempt) per order.
-- Returns 1 or 0 per order; leases of unwanted ones are released and their entries deleted.
local pub, cursor = KEYS[1], KEYS[2]
local next_seq = tonumber(redis.call('GET', cursor) or '0')
local wanted = {}
for i = 1, #ARGV, 4 do
  local stream, id, seq = KEYS[2 + tonumber(ARGV[i])], ARGV[i + 1], tonumber(ARGV[i + 2])
  local open = redis.call('HGET', pub, ARGV[i + 2]) == 'open:' .. ARGV[i + 3]
  if open and seq < next_seq then
    wanted[#wanted + 1] = 1
  else
    redis.call('XACK', stream, 'actors', id)
    redis.call('XDEL', stream, id)
    wanted[#wanted + 1] = 0
  end
end
return wanted
