-- A quarantined job is asked again as a new one: a final state never changes.
-- KEYS[6]: the new job
-- ARGV: id, new id, deadline_ms
-- Returns OK | GONE (not in quarantine)
if redis.call('HGET', JOB, 'retried_as') == ARGV[2] then return 'OK' end -- this very call repeated
if not redis.call('ZSCORE', QUARANTINED, ARGV[1]) or redis.call('EXISTS', JOB) == 0 then return 'GONE' end
local kept = {'payload', 'model', 'conversation', 'conversation_id', 'schema'}
local values = redis.call('HMGET', JOB, unpack(kept))
for i, name in ipairs(kept) do redis.call('HSET', KEYS[6], name, values[i] or '1') end -- jobs without a schema are of the first
redis.call('HSET', KEYS[6], 'state', 'queued', 'attempt', 0, 'charged', 0, 'seq', 0, 'cancel', 0, 'created', now, 'deadline', now + ARGV[3])
redis.call('ZADD', QUEUED, now, ARGV[2])
redis.call('HSET', JOB, 'retried_as', ARGV[2])
redis.call('ZREM', QUARANTINED, ARGV[1])
return 'OK'
