-- Put before every script. The server's clock is the only clock of the protocol.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local FINAL = {done = true, failed = true, cancelled = true}

-- The one way into a final state: hash, event, both sets and expiries change together.
-- keys: job, events, queued, running
local function finalise(keys, id, attempt, state, fields, keep_job_s, keep_events_s)
  redis.call('HSET', keys[1], 'state', state, 'finished', now, unpack(fields))
  redis.call('XADD', keys[2], '*', 'type', 'final', 'attempt', attempt, 'state', state)
  redis.call('ZREM', keys[3], id)
  redis.call('ZREM', keys[4], id)
  redis.call('EXPIRE', keys[1], keep_job_s)
  redis.call('EXPIRE', keys[2], keep_events_s)
end

-- Back to the queue. The time of queueing is the first one, so that a job keeps its place.
local function requeue(keys, id)
  redis.call('HSET', keys[1], 'state', 'queued', 'owner', '')
  redis.call('ZREM', keys[4], id)
  redis.call('ZADD', keys[3], redis.call('HGET', keys[1], 'created'), id)
end

-- Text events from `first_seq` on; those written before (a repeated call) are left out.
local function append(keys, attempt, last_seq, first_seq, types_and_texts)
  for i = 1, #types_and_texts, 2 do
    local seq = first_seq + (i - 1) / 2
    if seq > last_seq then
      redis.call('XADD', keys[2], '*', 'type', types_and_texts[i], 'attempt', attempt, 'seq', seq, 'text', types_and_texts[i + 1])
      last_seq = seq
    end
  end
  if #types_and_texts > 0 then
    redis.call('HSET', keys[1], 'seq', last_seq)
    redis.call('HSETNX', keys[1], 'first_token', now)
  end
end
