//! What Redis does in one step. Each script touches one key, so that it works in a cluster, and goes by Redis's clock.

use std::sync::LazyLock;

use redis::Script;

/// Adds what a node has spent of a rate, and gives it the next lease. All numbers are microseconds of the rate.
///
/// `KEYS[1]` the cell; `ARGV`: node, spent, how long ago the first of it, burst, largest lease, one unit, term of the
/// lease, how long everything is refused. Gives: until everything is earned, lease, how long everything is refused.
///
/// A lease is cut from what is neither spent nor leased to others, and is one unit at least: a limit that is used up
/// still refuses by itself.
pub(super) static SPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full, blocked, others = 0, 0, 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'full' then full = tonumber(value)
  elseif name == 'blocked' then blocked = tonumber(value)
  elseif name ~= ARGV[1] then
    local amount, till = string.match(value, '^(%d+) (%d+)$')
    if tonumber(till) > now then others = others + amount else redis.call('HDEL', KEYS[1], name) end
  end
end
local spent, block, term = tonumber(ARGV[2]), tonumber(ARGV[8]), tonumber(ARGV[7])
if spent > 0 then full = math.max(full, now - ARGV[3]) + spent end
if block > 0 then blocked = math.max(blocked, now + block) end
local debt, refused = math.max(full - now, 0), math.max(blocked - now, 0)
local lease = math.max(math.min(ARGV[4] - debt - others, tonumber(ARGV[5])), tonumber(ARGV[6]))
redis.call('HSET', KEYS[1], 'full', string.format('%.0f', full), 'blocked', string.format('%.0f', blocked),
  ARGV[1], string.format('%.0f %.0f', lease, now + term))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(math.max(debt, refused, term) / 1000)))
return {debt, lease, refused}
",
    )
});

/// Has a node hold seats of a number at once.
///
/// `KEYS[1]` the cell; `ARGV`: node, seats that it uses, seats that it wants, how many there are, milliseconds until they
/// are free again if nothing more is heard. Gives: seats that it holds, seats that others hold.
pub(super) static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local others = 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if fields[i] ~= ARGV[1] then
    local amount, till = string.match(fields[i + 1], '^(%d+) (%d+)$')
    if tonumber(till) > now then others = others + amount else redis.call('HDEL', KEYS[1], fields[i]) end
  end
end
local held = math.max(tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), ARGV[4] - others))
if held > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f', held, now + ARGV[5]))
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return {held, others}
",
    )
});

/// Says that a node lives, and tells who else does.
///
/// `KEYS[1]` all nodes; `ARGV`: node, what it says of itself, milliseconds until it counts as gone. Gives what each of
/// them says of itself.
pub(super) static BEAT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', now + ARGV[3], ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local live = {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local till, said = string.match(fields[i + 1], '^(%d+) (.*)$')
  if till and tonumber(till) > now then live[#live + 1] = said else redis.call('HDEL', KEYS[1], fields[i]) end
end
return live
",
    )
});
