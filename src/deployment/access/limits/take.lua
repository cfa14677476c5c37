-- Take all charges or none.
-- KEYS: a counter each. ARGV: lease, its length in ms, then for each key: limit, amount, window in ms
-- (0: concurrent requests; negative: a budget, which ends in so long). Answer: refused (0, or the number of the key that must wait longest), how long
-- in ms, then for each key: remaining, ms until some comes back, slice.
-- A budget is a number, a window a hash slice -> amount, concurrent requests a sorted set lease -> end, so that those of a
-- gateway that died come back.
local SLICES, KEPT, WAIT_FOR_SLOT, AFTER_BUDGET = 12, 13, 1000, 3600000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease, lease_ms = ARGV[1], tonumber(ARGV[2])
local refused, longest = 0, 0
local looked = {}

for i = 1, #KEYS do
  local at = 3 * i
  local charge = { limit = tonumber(ARGV[at]), amount = tonumber(ARGV[at + 1]), window = tonumber(ARGV[at + 2]),
                   used = 0, reset = 0, slice = 0 }
  local wait = 0
  if charge.window == 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
    charge.used = redis.call('ZCARD', KEYS[i])
    if charge.used + charge.amount > charge.limit then wait = WAIT_FOR_SLOT end
  elseif charge.window < 0 then
    charge.used = tonumber(redis.call('GET', KEYS[i]) or 0)
    charge.reset = -charge.window
    if charge.used + charge.amount > charge.limit then wait = charge.reset end
  else
    local length = charge.window / SLICES
    charge.slice = math.floor(now / length)
    local fields, live = redis.call('HGETALL', KEYS[i]), {}
    for j = 1, #fields, 2 do
      local slice, amount = tonumber(fields[j]), tonumber(fields[j + 1])
      if slice <= charge.slice - KEPT then
        redis.call('HDEL', KEYS[i], fields[j])
      else
        charge.used = charge.used + amount
        live[#live + 1] = { slice, amount }
      end
    end
    table.sort(live, function(a, b) return a[1] < b[1] end)
    if live[1] then charge.reset = (live[1][1] + KEPT) * length - now end
    local over = charge.used + charge.amount - charge.limit
    if over > 0 then
      wait = charge.window
      for _, entry in ipairs(live) do
        over = over - entry[2]
        if over <= 0 then
          wait = (entry[1] + KEPT) * length - now
          break
        end
      end
    end
  end
  if wait > longest then refused, longest = i, wait end
  looked[i] = charge
end

local answer = { refused, math.ceil(longest) }
for i, charge in ipairs(looked) do
  if refused == 0 then
    charge.used = charge.used + charge.amount
    if charge.window == 0 then
      redis.call('ZADD', KEYS[i], now + lease_ms, lease)
      redis.call('PEXPIRE', KEYS[i], lease_ms)
    elseif charge.window < 0 then
      redis.call('INCRBY', KEYS[i], charge.amount)
      redis.call('PEXPIRE', KEYS[i], math.ceil(charge.reset) + AFTER_BUDGET)
    else
      redis.call('HINCRBY', KEYS[i], charge.slice, charge.amount)
      redis.call('PEXPIRE', KEYS[i], math.ceil(charge.window * KEPT / SLICES))
      if charge.reset == 0 then charge.reset = (charge.slice + KEPT) * charge.window / SLICES - now end
    end
  end
  answer[#answer + 1] = math.max(0, charge.limit - charge.used)
  answer[#answer + 1] = math.ceil(charge.reset)
  answer[#answer + 1] = charge.slice
end
return answer
