-- KEYS: job, events, queued, running
-- ARGV: id, keep_job_s, keep_events_s
-- Returns CANCELLED (was queued) | REQUESTED (its worker will stop) | FINAL | GONE
local h = redis.call('HMGET', KEYS[1], 'state', 'attempt')
if not h[1] then return 'GONE' end
if FINAL[h[1]] then return 'FINAL' end
redis.call('HSET', KEYS[1], 'cancel', 1)
if h[1] == 'running' then return 'REQUESTED' end
finalise(KEYS, ARGV[1], h[2], 'cancelled', {}, ARGV[2], ARGV[3])
return 'CANCELLED'
