-- KEYS[6]: idempotency key, if there is one
-- ARGV: id, payload, model, conversation key, conversation id, deadline_ms, max_queued, request hash, schema of the payload
-- Returns {QUEUED|DUPLICATE, id} | {FULL, count} | {CONFLICT, ''}
if KEYS[6] then
  local seen = redis.call('GET', KEYS[6])
  if seen then
    local space = string.find(seen, ' ', 1, true)
    if string.sub(seen, space + 1) ~= ARGV[8] then return {'CONFLICT', ''} end
    return {'DUPLICATE', string.sub(seen, 1, space - 1)}
  end
end
-- The same id again is this very call repeated after a lost reply.
if redis.call('EXISTS', JOB) == 1 then return {'DUPLICATE', ARGV[1]} end
local waiting = redis.call('ZCARD', QUEUED)
if waiting >= tonumber(ARGV[7]) then return {'FULL', tostring(waiting)} end
redis.call('HSET', JOB, 'state', 'queued', 'attempt', 0, 'charged', 0, 'seq', 0, 'cancel', 0, 'created', now, 'payload', ARGV[2],
  'model', ARGV[3], 'conversation', ARGV[4], 'conversation_id', ARGV[5], 'deadline', now + ARGV[6], 'schema', ARGV[9])
redis.call('ZADD', QUEUED, now, ARGV[1])
if KEYS[6] then redis.call('SET', KEYS[6], ARGV[1] .. ' ' .. ARGV[8], 'EX', KEEP_IDEMPOTENCY_S) end
return {'QUEUED', ARGV[1]}
