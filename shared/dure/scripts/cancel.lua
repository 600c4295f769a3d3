-- ARGV: id
-- Returns CANCELLED (was queued) | REQUESTED (its worker will stop) | FINAL | GONE
local h = redis.call('HMGET', JOB, 'state', 'attempt')
if not h[1] then return 'GONE' end
if FINAL[h[1]] then return 'FINAL' end
redis.call('HSET', JOB, 'cancel', 1)
if h[1] == 'running' then return 'REQUESTED' end
finalise(ARGV[1], h[2], 'cancelled', {})
return 'CANCELLED'
