-- A stopping worker gives a job back; the attempt is not charged, but its number is used up: it is the fence.
-- KEYS: job, events, queued, running
-- ARGV: id, attempt
-- Returns OK | LOST
local h = redis.call('HMGET', KEYS[1], 'state', 'attempt')
if h[1] ~= 'running' or h[2] ~= ARGV[2] then return 'LOST' end
requeue(KEYS, ARGV[1])
redis.call('HINCRBY', KEYS[1], 'charged', -1)
return 'OK'
