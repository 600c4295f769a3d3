-- ARGV: id, owner ("worker:process:call"), lease_ms, worker, is_alone (1: nothing else runs in this worker)
-- Returns {CLAIMED, attempt, payload, ms left until the deadline, conversation key}
--   | {ALONE} (come again when nothing else runs) | {NEWER} | {GONE|FINAL|BUSY|CANCELLED|QUARANTINED|EXPIRED}
local h = redis.call('HMGET', JOB, 'state', 'attempt', 'cancel', 'lease_until', 'owner', 'deadline', 'payload', 'conversation', 'charged', 'schema', 'declined')
local state, attempt = h[1], tonumber(h[2])
if not state then return {'GONE'} end
if FINAL[state] then return {'FINAL'} end
local claimed = {'CLAIMED', attempt, h[7], tonumber(h[6]) - now, h[8]}
if state == 'running' then
  if tonumber(h[4]) > now then
    if h[5] ~= ARGV[2] then return {'BUSY'} end
    return claimed -- the same owner again: its first reply was lost
  end
  local fate = lose(ARGV[1], 'silent', 0)
  if fate ~= 'REQUEUED' then return {fate} end
end
if now > tonumber(h[6]) then
  expire(ARGV[1], attempt, h[11])
  return {'EXPIRED'}
end
if tonumber(h[10] or 1) > SCHEMA then
  redis.call('HSET', JOB, 'declined', ARGV[4])
  return {'NEWER'} -- left to a worker of its own release
end
-- Whoever shares a worker with a job that kills it is charged too. The last try tells who it was.
if tonumber(h[9]) > 0 and tonumber(h[9]) + 1 >= MAX_ATTEMPTS and ARGV[5] ~= '1' then return {'ALONE'} end
claimed[2] = attempt + 1
redis.call('HSET', JOB, 'state', 'running', 'attempt', attempt + 1, 'charged', h[9] + 1, 'seq', 0, 'owner', ARGV[2], 'lease_until', now + ARGV[3])
redis.call('HSETNX', JOB, 'started', now)
redis.call('ZREM', QUEUED, ARGV[1])
redis.call('ZADD', RUNNING, now + ARGV[3], ARGV[1])
redis.call('XADD', EVENTS, '*', 'type', attempt == 0 and 'start' or 'restarted', 'attempt', attempt + 1, 'worker', ARGV[4])
return claimed
