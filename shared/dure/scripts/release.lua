-- A stopping worker gives a job back; the attempt is not charged, but its number is used up: it is the fence.
-- ARGV: id, attempt
-- Returns OK | LOST
local h = redis.call('HMGET', JOB, 'state', 'attempt', 'cancel')
if h[1] ~= 'running' or h[2] ~= ARGV[2] then return 'LOST' end
if h[3] == '1' then
  finalise(ARGV[1], h[2], 'cancelled', {})
else
  requeue(ARGV[1])
  redis.call('HINCRBY', JOB, 'charged', -1)
end
return 'OK'
