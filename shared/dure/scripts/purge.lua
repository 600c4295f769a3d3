-- An operator clears jobs away. Running ones are never touched.
-- ARGV: id, kind (queued: is cancelled; quarantined, ended: is deleted with its events),
--       settled_ms (it must have ended so long ago: somebody may still be reading the answer)
-- Returns PURGED | KEPT (is not of that kind, or no longer) | GONE
local h = redis.call('HMGET', JOB, 'state', 'attempt', 'charged', 'finished')
if not h[1] then
  redis.call('ZREM', QUARANTINED, ARGV[1])
  return 'GONE'
end
if ARGV[2] == 'queued' then
  if h[1] ~= 'queued' then return 'KEPT' end
  redis.call('HSET', JOB, 'cancel', 1)
  finalise(ARGV[1], h[2], 'cancelled', {})
  return 'PURGED'
end
-- `charged` and `finished`: what others keep under such a name on a shared server is not ours to delete.
if not (FINAL[h[1]] and h[3] and h[4]) or tonumber(h[4]) > now - ARGV[3] then return 'KEPT' end
local is_quarantined = redis.call('ZSCORE', QUARANTINED, ARGV[1]) and true or false
if is_quarantined ~= (ARGV[2] == 'quarantined') then return 'KEPT' end
redis.call('DEL', JOB, EVENTS)
redis.call('ZREM', QUARANTINED, ARGV[1])
return 'PURGED'
