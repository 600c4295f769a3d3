-- ARGV: id, attempt, lease_ms (0: do not renew, only ask for the cancel flag), first_seq, then type, text, replaces, …
-- Returns OK | CANCEL | LOST
local h = redis.call('HMGET', JOB, 'state', 'attempt', 'cancel', 'seq')
if h[1] ~= 'running' or h[2] ~= ARGV[2] then return 'LOST' end
append(ARGV[2], tonumber(h[4]), tonumber(ARGV[4]), {unpack(ARGV, 5)})
if tonumber(ARGV[3]) > 0 then
  redis.call('HSET', JOB, 'lease_until', now + ARGV[3])
  redis.call('ZADD', RUNNING, now + ARGV[3], ARGV[1])
end
if h[3] == '1' then return 'CANCEL' end
return 'OK'
