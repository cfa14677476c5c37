-- Give back. KEYS: a counter each. ARGV: lease, then for each key: 0 (concurrent requests) or 1 (a window),
-- slice, amount (negative: used beyond what was taken).
for i = 1, #KEYS do
  local at = 3 * i - 1
  local slice, amount = ARGV[at + 1], tonumber(ARGV[at + 2])
  if ARGV[at] == '0' then
    redis.call('ZREM', KEYS[i], ARGV[1])
  elseif redis.call('HEXISTS', KEYS[i], slice) == 1 then
    if redis.call('HINCRBY', KEYS[i], slice, -amount) < 0 then redis.call('HSET', KEYS[i], slice, 0) end
  end
end
return {}
