-- KEYS[6]: conversation, if there is one
-- ARGV: id, attempt, state, reply, finish_reason, prompt_tokens, completion_tokens, error_code, error_message,
--       max_turns, user turn, assistant turn, first_seq, then type, text, replaces, …
-- Returns OK | AGAIN (this attempt ended it before: the first reply was lost) | LOST
local h = redis.call('HMGET', JOB, 'state', 'attempt', 'seq')
if h[2] ~= ARGV[2] then return 'LOST' end
if h[1] and FINAL[h[1]] then return 'AGAIN' end
if h[1] ~= 'running' then return 'LOST' end
append(ARGV[2], tonumber(h[3]), tonumber(ARGV[13]), {unpack(ARGV, 14)})
finalise(ARGV[1], ARGV[2], ARGV[3], {'reply', ARGV[4], 'finish_reason', ARGV[5], 'prompt_tokens', ARGV[6],
  'completion_tokens', ARGV[7], 'error_code', ARGV[8], 'error_message', ARGV[9]})
if KEYS[6] and ARGV[3] == 'done' then
  redis.call('RPUSH', KEYS[6], ARGV[11], ARGV[12])
  redis.call('LTRIM', KEYS[6], -ARGV[10], -1)
  redis.call('EXPIRE', KEYS[6], KEEP_CONVERSATION_S)
end
return 'OK'
