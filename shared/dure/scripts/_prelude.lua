-- Put before every script, behind a line of constants from Python (job_store.py): SCHEMA, MAX_ATTEMPTS, KEEP_*_S.
-- The server's clock is the only clock of the protocol.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local FINAL = {done = true, failed = true, cancelled = true}
-- keys of a job, the first five of every script
local JOB, EVENTS, QUEUED, RUNNING, QUARANTINED = unpack(KEYS, 1, 5)

-- The one way into a final state: hash, event, both sets and expiries change together.
local function finalise(id, attempt, state, fields)
  redis.call('HSET', JOB, 'state', state, 'finished', now, unpack(fields))
  redis.call('XADD', EVENTS, '*', 'type', 'final', 'attempt', attempt, 'state', state)
  redis.call('ZREM', QUEUED, id)
  redis.call('ZREM', RUNNING, id)
  redis.call('EXPIRE', JOB, KEEP_JOB_S)
  redis.call('EXPIRE', EVENTS, KEEP_EVENTS_S)
end

-- Back to the queue. The time of queueing is the first one, so that a job keeps its place.
local function requeue(id)
  redis.call('HSET', JOB, 'state', 'queued', 'owner', '')
  redis.call('ZREM', RUNNING, id)
  redis.call('ZADD', QUEUED, redis.call('HGET', JOB, 'created'), id)
end

-- An attempt ended without a word from its worker: note why, then queue the job again, or end it when that is enough.
local function lose(id, cause, rss_mib)
  local h = redis.call('HMGET', JOB, 'attempt', 'charged', 'cancel', 'owner')
  redis.call('HSET', JOB, 'lost:' .. h[1], cause .. ' ' .. rss_mib .. ' ' .. now .. ' ' .. h[4])
  if h[3] == '1' then
    finalise(id, h[1], 'cancelled', {})
    return 'CANCELLED'
  end
  if tonumber(h[2]) < MAX_ATTEMPTS then
    requeue(id)
    return 'REQUEUED'
  end
  finalise(id, h[1], 'failed', {'error_code', 'max_attempts'})
  redis.call('ZREMRANGEBYSCORE', QUARANTINED, '-inf', now - KEEP_QUARANTINED_S * 1000)
  redis.call('ZADD', QUARANTINED, now, id)
  redis.call('EXPIRE', JOB, KEEP_QUARANTINED_S)
  return 'QUARANTINED'
end

-- A job that waited past its deadline.
local function expire(id, attempt, declined)
  if declined then
    finalise(id, attempt, 'failed', {'error_code', 'no_new_worker', 'error_message',
      'only older workers were there: update dure on them (' .. declined .. ')'})
  else
    finalise(id, attempt, 'failed', {'error_code', 'expired', 'error_message',
      'the job waited past its deadline: add a worker, or send less at a time'})
  end
end

-- Text events from `first_seq` on; those written before (a repeated call) are left out.
-- drafts: type, text, replaces, type, text, replaces, …
local function append(attempt, last_seq, first_seq, drafts)
  for i = 1, #drafts, 3 do
    local seq = first_seq + (i - 1) / 3
    if seq > last_seq then
      local entry = {'type', drafts[i], 'attempt', attempt, 'seq', seq, 'text', drafts[i + 1]}
      if drafts[i] == 'sentence' then
        entry[#entry + 1] = 'replaces'
        entry[#entry + 1] = drafts[i + 2]
      end
      redis.call('XADD', EVENTS, '*', unpack(entry))
      last_seq = seq
    end
  end
  if #drafts > 0 then
    redis.call('HSET', JOB, 'seq', last_seq)
    redis.call('HSETNX', JOB, 'first_token', now)
  end
end
