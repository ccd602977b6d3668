-- Beginning of scripts that make a run's keys: `mend(first)` deletes each key from KEYS[first] on that holds what no
-- process of the run writes there, and returns their names. They are 4 strings, 8 hashes, and streams: all that actors
-- may write. An actor may give a key that is absent a value of another type, and use the last possible id of a stream,
-- to which nothing can be added then. A stream tells that, and nothing of its payloads, to whoever adds its first id.
-- The first write (HDEL) passes a full broker and opens the gate for the rest.
local function mend(first)
  local mended = {}
  for i = first, #KEYS do
    local key, found, spoiled = KEYS[i], nil, false
    if i < first + 4 then
      found = redis.pcall('GET', key)
    elseif i < first + 12 then
      found = redis.pcall('HDEL', key, '')
    else
      found = redis.pcall('XADD', key, 'NOMKSTREAM', '0-1', '', '')
      if found == '0-1' then redis.call('XDEL', key, found) end
    end
    if type(found) == 'table' and found.err then
      spoiled = string.find(found.err, 'WRONGTYPE', 1, true) or string.find(found.err, 'exhausted', 1, true)
    end
    if spoiled then
      redis.call('DEL', key)
      mended[#mended + 1] = key
    end
  end
  return mended
end
