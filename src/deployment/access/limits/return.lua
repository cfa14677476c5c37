-- Give back. KEYS: a counter each. ARGV: lease, then for each key: places (concurrent requests), budget or
-- window, then slice, amount (negative: used beyond what was taken). A counter that ended meanwhile stays away.
for i = 1, #KEYS do
  local at = 3 * i - 1
  local form, slice, amount = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  if form == 'places' then
    redis.call('ZREM', KEYS[i], ARGV[1])
  elseif form == 'budget' then
    if redis.call('EXISTS', KEYS[i]) == 1 then redis.call('INCRBY', KEYS[i], -amount) end
  elseif redis.call('HEXISTS', KEYS[i], slice) == 1 then
    if redis.call('HINCRBY', KEYS[i], slice, -amount) < 0 then redis.call('HSET', KEYS[i], slice, 0) end
  end
end
return {}
