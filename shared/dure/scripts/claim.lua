-- KEYS: job, events, queued, running
-- ARGV: id, owner, lease_ms, max_attempts, worker, keep_job_s, keep_events_s
-- Returns {CLAIMED, attempt, payload, ms left until the deadline, conversation key} | {GONE|FINAL|BUSY|CANCELLED|EXHAUSTED|EXPIRED}
local h = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'cancel', 'lease_until', 'owner', 'deadline', 'payload', 'conversation', 'charged')
local state, attempt = h[1], tonumber(h[2])
if not state then return {'GONE'} end
if FINAL[state] then return {'FINAL'} end
local claimed = {'CLAIMED', attempt, h[7], tonumber(h[6]) - now, h[8]}
if state == 'running' and tonumber(h[4]) > now then
  if h[5] ~= ARGV[2] then return {'BUSY'} end
  return claimed -- the same owner again: its first reply was lost
end
local function finish(final, code, message)
  finalise(KEYS, ARGV[1], attempt, final, {'error_code', code, 'error_message', message}, ARGV[6], ARGV[7])
end
if h[3] == '1' then finish('cancelled', '', ''); return {'CANCELLED'} end
if now > tonumber(h[6]) then
  finish('failed', 'expired', 'the job waited past its deadline: add a worker, or send less at a time')
  return {'EXPIRED'}
end
if tonumber(h[9]) + 1 > tonumber(ARGV[4]) then
  finish('failed', 'max_attempts', 'the job ended its worker ' .. h[9] .. ' times and will not be tried again')
  return {'EXHAUSTED'}
end
claimed[2] = attempt + 1
redis.call('HSET', KEYS[1], 'state', 'running', 'attempt', attempt + 1, 'charged', h[9] + 1, 'seq', 0, 'owner', ARGV[2], 'lease_until', now + ARGV[3])
redis.call('HSETNX', KEYS[1], 'started', now)
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], now + ARGV[3], ARGV[1])
redis.call('XADD', KEYS[2], '*', 'type', 'start', 'attempt', attempt + 1, 'worker', ARGV[5])
return claimed
