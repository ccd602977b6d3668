-- ASK: an operator's write of fields of one hash (a request, the wanted number of actors, actors that are to leave),
-- which is news. ARGV: topic, then field and value of each. Returns how many.
-- The first write (HDEL) passes a full broker and opens the gate for the rest.
local target, news = KEYS[2], KEYS[1]
for i = 2, #ARGV, 2 do redis.call('HDEL', target, ARGV[i]) end
redis.call('HSET', target, unpack(ARGV, 2))
redis.call('XADD', news, 'MAXLEN', 64, '*', 'topic', ARGV[1])
return (#ARGV - 1) / 2
