-- KEYS: job, events, queued, running, conversation or ''
-- ARGV: id, attempt, state, reply, finish_reason, prompt_tokens, completion_tokens, error_code, error_message,
--       keep_job_s, keep_events_s, keep_conversation_s, max_turns, user turn, assistant turn, first_seq, then type, text, …
-- Returns OK | AGAIN (this attempt ended it before: the first reply was lost) | LOST
local h = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'seq')
if h[2] ~= ARGV[2] then return 'LOST' end
if h[1] and FINAL[h[1]] then return 'AGAIN' end
if h[1] ~= 'running' then return 'LOST' end
append(KEYS, ARGV[2], tonumber(h[3]), tonumber(ARGV[16]), {unpack(ARGV, 17)})
finalise(KEYS, ARGV[1], ARGV[2], ARGV[3], {'reply', ARGV[4], 'finish_reason', ARGV[5], 'prompt_tokens', ARGV[6],
  'completion_tokens', ARGV[7], 'error_code', ARGV[8], 'error_message', ARGV[9]}, ARGV[10], ARGV[11])
if KEYS[5] ~= '' and ARGV[3] == 'done' then
  redis.call('RPUSH', KEYS[5], ARGV[14], ARGV[15])
  redis.call('LTRIM', KEYS[5], -ARGV[13], -1)
  redis.call('EXPIRE', KEYS[5], ARGV[12])
end
return 'OK'
