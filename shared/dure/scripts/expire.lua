-- KEYS: job, events, queued, running
-- ARGV: id, keep_job_s, keep_events_s
-- Returns REQUEUED (lease over) | CANCELLED | EXPIRED (queued past its deadline) | KEPT | GONE
local h = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'lease_until', 'cancel', 'deadline')
if not h[1] then
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('ZREM', KEYS[4], ARGV[1])
  return 'GONE'
end
if h[1] == 'running' and tonumber(h[3]) <= now then
  if h[4] == '1' then
    finalise(KEYS, ARGV[1], h[2], 'cancelled', {}, ARGV[2], ARGV[3])
    return 'CANCELLED'
  end
  requeue(KEYS, ARGV[1])
  return 'REQUEUED'
end
if h[1] == 'queued' and tonumber(h[5]) <= now then
  finalise(KEYS, ARGV[1], h[2], 'failed',
    {'error_code', 'expired', 'error_message', 'the job waited past its deadline: add a worker, or send less at a time'},
    ARGV[2], ARGV[3])
  return 'EXPIRED'
end
return 'KEPT'
