-- Divides the nodes' slots among the gateways that live: never more than there are, in one round trip.
--
-- KEYS[1]  hash of "node\0gateway" -> "grant want expires_ms hungry_since_ms held_since_ms"
-- ARGV     gateway, time to live (ms), turn (ms), then for each node: name, slots, keep, want
-- Returns  for each node: grant, wish
--
-- A gateway never loses what it keeps. While others want more than they have it gets no more than its fair part,
-- and is asked (wish) to come down to it. Where there are fewer slots than gateways, they take turns.

local key, me, ttl, turn = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local nodes, expired = {}, {}
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local node, gateway = string.match(all[i], '^(.-)%z(.*)$')
  local grant, want, expires, hungry, held = string.match(all[i + 1], '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not grant or tonumber(expires) <= now then
    expired[#expired + 1] = all[i]
  else
    nodes[node] = nodes[node] or {}
    nodes[node][gateway] = {
      grant = tonumber(grant), want = tonumber(want), hungry = tonumber(hungry), held = tonumber(held),
    }
  end
end
for _, field in ipairs(expired) do redis.call('HDEL', key, field) end

local reply = {}
for i = 4, #ARGV, 4 do
  local node, slots, keep, want = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local others = nodes[node] or {}
  local mine = others[me] or { grant = 0, want = 0, hungry = 0, held = 0 }
  others[me] = nil
  local taken, alive, unmet, oldest = 0, 1, false, nil
  for gateway, other in pairs(others) do
    taken, alive = taken + other.grant, alive + 1
    if other.want > other.grant then
      unmet = true
      if other.grant == 0 and (oldest == nil or other.hungry < oldest) then oldest = other.hungry end
    end
  end
  local free, fair = math.max(slots - taken, 0), math.ceil(slots / alive)
  local hungry = mine.hungry > 0 and mine.hungry or now
  local grant, wish
  if slots >= alive then
    local least = math.max(math.min(want, fair), 1)
    grant = unmet and math.max(keep, least) or math.max(keep, want, fair)
    grant = math.min(grant, free)
    wish = unmet and math.min(grant, least) or grant
  else
    grant = keep
    if grant == 0 and want > 0 and (oldest == nil or hungry <= oldest) then grant = 1 end
    grant = math.min(grant, free)
    local over = mine.held > 0 and now - mine.held >= turn
    wish = (oldest ~= nil and (over or want == 0)) and 0 or grant
  end
  local held = grant > 0 and (mine.held > 0 and mine.held or now) or 0
  hungry = want > grant and hungry or 0
  if ttl > 0 then
    local value = string.format('%d %d %d %d %d', grant, want, now + ttl, hungry, held)
    redis.call('HSET', key, node .. '\0' .. me, value)
  else
    redis.call('HDEL', key, node .. '\0' .. me)
  end
  reply[#reply + 1] = grant
  reply[#reply + 1] = wish
end
redis.call('PEXPIRE', key, math.max(ttl, 1000) * 10)
return reply
