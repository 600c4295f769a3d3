-- ARGV: id
-- Returns REQUEUED | CANCELLED | QUARANTINED (its lease was over) | EXPIRED (queued past its deadline) | KEPT | GONE
local h = redis.call('HMGET', JOB, 'state', 'attempt', 'lease_until', 'deadline', 'declined')
if not h[1] then
  redis.call('ZREM', QUEUED, ARGV[1])
  redis.call('ZREM', RUNNING, ARGV[1])
  return 'GONE'
end
if h[1] == 'running' and tonumber(h[3]) <= now then return lose(ARGV[1], 'silent', 0) end
if h[1] == 'queued' and tonumber(h[4]) <= now then
  expire(ARGV[1], h[2], h[5])
  return 'EXPIRED'
end
return 'KEPT'
