-- A supervisor has seen its worker's process end: nobody needs to wait for the lease.
-- ARGV: id, owner's beginning ("worker:process:"), cause, rss_mib
-- Returns REQUEUED | CANCELLED | QUARANTINED | NOTED (the lease was over before; now the cause is known) | KEPT | GONE
local h = redis.call('HMGET', JOB, 'state', 'attempt', 'owner')
if not h[1] then return 'GONE' end
local function is_his(owner) return string.sub(owner, 1, #ARGV[2]) == ARGV[2] end
if h[1] == 'running' and is_his(h[3]) then return lose(ARGV[1], ARGV[3], ARGV[4]) end
for attempt = 1, tonumber(h[2]) do
  local noted = redis.call('HGET', JOB, 'lost:' .. attempt)
  local at, owner = string.match(noted or '', '^silent 0 (%d+) (.*)$')
  if at and is_his(owner) then
    redis.call('HSET', JOB, 'lost:' .. attempt, ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. at .. ' ' .. owner)
    return 'NOTED'
  end
end
return 'KEPT'
