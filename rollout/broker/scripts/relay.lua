-- RELAY: enters a machine that has the version with this digest, or fetches it, and returns the URLs of those that were
-- entered before it, so that no two wait for each other. ARGV: its URL ('': enter none), digest, versions that a machine
-- keeps, most machines, seconds after which a record counts no more.
-- A record: each version with the machine's place among those that have it, newest last, and the server's time.
-- Anybody may write anything here: a record that is too long is deleted, because a pattern would be sought in it for
-- ever.
-- The first write (HDEL) passes a full broker and opens the gate for the other.
local relays, me, digest = KEYS[1], ARGV[1], ARGV[2]
local keep, most, age_s = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = tonumber(time[1])
local own, mine, last, count, others = {}, nil, 0, 0, {}
local records = redis.call('HGETALL', relays)
for i = 1, #records, 2 do
  local url, record = records[i], #records[i + 1] <= 1024 and records[i + 1] or ''
  local at = tonumber(string.match(record, '"at_ms":(%d+)') or 0) / 1000
  if url ~= me and now - at > age_s or record == '' then
    redis.call('HDEL', relays, url)
  else
    if url ~= me then count = count + 1 end
    for version, place in string.gmatch(record, '([^ "=]+)=(%d+)') do
      place = tonumber(place)
      if version == digest then
        last = math.max(last, place)
        if url == me then mine = place else others[#others + 1] = {url, place} end
      elseif url == me then
        own[#own + 1] = version .. '=' .. place
      end
    end
  end
end
mine = mine or last + 1
if me ~= '' and count < most then
  for _ = math.max(1, keep), #own do table.remove(own, 1) end
  own[#own + 1] = digest .. '=' .. mine
  redis.call('HDEL', relays, me)
  redis.call('HSET', relays, me, '{"versions":"' .. table.concat(own, ' ') .. '","at_ms":' .. now .. '000}')
end
local found = {}
for _, other in ipairs(others) do
  if other[2] < mine then found[#found + 1] = other[1] end
end
return found
