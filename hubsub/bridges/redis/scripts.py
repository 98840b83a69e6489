"""The scripts that Redis runs for the adapter of Streams, each atomically."""

from __future__ import annotations

from hashlib import sha1


class Script:
    """Lua code, and the name by which a server knows it."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


HANDED_BACK = b"handed back"
"""The consumer of each group that holds the messages that members handed back, until another claims them."""

MOST_VALUES = 7_900
"""Values of an entry, including the names of fields: Lua's `unpack` returns no more at a time."""

# The epoch is a random string beside the stream, a new one for each stream of that name. Without it, if a stream were
# deleted and the same number of other entries added, they would look like those that we know.

# The last stored sequence of the sender is saved even if a record is refused: else those before it are stored twice.
APPEND = Script(f"""
-- KEYS: stream, what this sender stored last, epoch.
-- ARGV: length to trim to or '', seconds to remember, a new epoch;
-- then of each record: sequence, number of arguments, arguments. Returns the errors of those that are refused.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[3], ARGV[3])
end
local stored = redis.call('GET', KEYS[2]) or '-1'
local trim = ARGV[1] ~= ''
local refused = {{}}
local at, index = 4, 0
while at < #ARGV do
  local first, last = at + 2, at + 1 + tonumber(ARGV[at + 1])
  if tonumber(ARGV[at]) > tonumber(stored) then
    local reply
    if last - first > {MOST_VALUES} + 4 then
      reply = {{err = 'ERR too many fields'}}
    elseif trim then
      reply = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, first, last))
    else
      reply = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, first, last))
    end
    if type(reply) == 'table' and reply.err then
      refused[#refused + 1] = {{index, reply}}
    else
      stored = ARGV[at]
    end
  end
  at, index = last + 1, index + 1
end
redis.call('SET', KEYS[2], stored, 'EX', ARGV[2])
return refused
""")

REDELIVER = Script("""
-- KEYS: dead letters, stream, epoch. ARGV: id, length to trim to or '', a new epoch, the first fields of a dead letter
-- and of what is sent back, the first of the last three. Returns whether the letter was there.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return 0 end
local fields = found[2]
local first, last = 1, #fields
if fields[1] == ARGV[4] then fields[1] = ARGV[5] end
if fields[last - 5] == ARGV[6] then last = last - 6 end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('SET', KEYS[3], ARGV[3])
end
if ARGV[2] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(fields, first, last))
else
  redis.call('XADD', KEYS[2], '*', unpack(fields, first, last))
end
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
""")

_NAMED = """
local function named(list)
  local map = {}
  for i = 1, #list, 2 do map[list[i]] = list[i + 1] end
  return map
end
"""

# Not XINFO itself, which returns the whole first and last entries.
STATE = Script(
    _NAMED
    + """
-- KEYS: stream, epoch. Returns the epoch, how many entries were ever added, how many are there, the last id ever given
-- and the id of the first entry there.
local epoch = redis.call('GET', KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 0 then return {epoch, 0, 0, '0-0', false} end
local stream = named(redis.call('XINFO', 'STREAM', KEYS[1]))
if not stream['entries-added'] then return {err = 'ERR Redis 7.0 or newer is needed, which counts entries'} end
local first = stream['first-entry']
return {epoch, stream['entries-added'], stream['length'], stream['last-generated-id'], first and first[1]}
"""
)

JOIN = Script(
    _NAMED
    + """
-- KEYS: stream, epoch. ARGV: group, id to begin after, a new epoch. Returns whether the group is new.
local from, read = ARGV[2], nil
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[2], ARGV[3])
  read = 0
else
  for _, each in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    if named(each)['name'] == ARGV[1] then return 0 end
  end
  local stream = named(redis.call('XINFO', 'STREAM', KEYS[1]))
  if from == '$' then
    read = stream['entries-added']
  elseif from == '0-0' then
    read = stream['entries-added'] - stream['length']
  end
end
if read then
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], from, 'MKSTREAM', 'ENTRIESREAD', read)
else
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], from, 'MKSTREAM')
end
return 1
"""
)

# The server counts the entries that a group has read, also beyond trimmed ones: the member that sees the difference
# reports it, and corrects the count, so that no other member does. A server that was restarted has lost the count, or
# has a lower one; so it is saved beside the stream, and looked up with each new connection. A server without memory
# left does not save it.
LOOK = Script(
    _NAMED
    + """
-- KEYS: stream, what the group had read, epoch. ARGV: group, who has what was handed back, 1 if the connection is new.
-- Returns how many entries are gone that it has not read, the last id that it has read, and whether something was
-- handed back.
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, '0-0', 0} end
local stream = named(redis.call('XINFO', 'STREAM', KEYS[1]))
for _, each in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = named(each)
  if group['name'] == ARGV[1] then
    local last, read = group['last-delivered-id'], group['entries-read']
    local returned = #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
    local epoch = redis.call('GET', KEYS[3]) or ''
    local note = redis.call('GET', KEYS[2]) or ''
    local id, count, of = string.match(note, '^(%S+) (%d+) (.*)$')
    if of == epoch and (not read or read < tonumber(count) or ARGV[3] == '1') then
      read = math.max(read or 0, tonumber(count) + #redis.call('XRANGE', KEYS[1], '(' .. id, last))
      redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', read)
    end
    if not read then return {0, last, returned} end
    local gone = stream['entries-added'] - stream['length']
    if last == stream['last-generated-id'] then gone = stream['entries-added'] end
    local missed = math.max(0, gone - read)
    if missed > 0 then
      read = gone
      redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', read)
    end
    local now = last .. ' ' .. string.format('%.0f', read) .. ' ' .. epoch
    if now ~= note then redis.pcall('SET', KEYS[2], now) end
    return {missed, last, returned}
  end
end
return {0, '0-0', 0}
"""
)

# Not XREADGROUP, which would count another delivery: a lost reply, or a message handed back, is nobody's failure. Not
# XAUTOCLAIM, which removes trimmed entries from a consumer that is still busy with them.
RECLAIM = Script("""
-- KEYS: stream. ARGV: group, consumer, bound to begin at, how many at most, whose, who has what was handed back; and if
-- whose is '', for those of everybody else, milliseconds of the lease. Returns the last id looked at if there may be
-- more, entries with their deliveries, and how many are gone.
local whose, most = ARGV[5], tonumber(ARGV[4])
local page = math.max(100, most)
local pending
if whose == '' then
  pending = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[7], ARGV[3], '+', page)
else
  pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], '+', page, whose)
end
local last, entries, gone = false, {}, 0
for _, each in ipairs(pending) do
  local id, consumer, deliveries = each[1], each[2], each[4]
  if #entries == most then break end
  last = id
  if whose ~= '' or consumer ~= ARGV[2] then
    local found = redis.call('XRANGE', KEYS[1], id, id)[1]
    if not found then
      gone = gone + redis.call('XACK', KEYS[1], ARGV[1], id)
    elseif whose == '' and consumer ~= ARGV[6] then
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id)
      entries[#entries + 1] = {id, found[2], deliveries + 1}
    else
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
      entries[#entries + 1] = {id, found[2], deliveries}
    end
  end
end
if #entries < most and #pending < page then last = false end
return {last, entries, gone}
""")

TIDY = Script("""
-- KEYS: stream. ARGV: group, consumer, milliseconds. Removes consumers without messages that were silent for so long.
for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local name, pending, idle = each[2], each[4], each[6]
  if name ~= ARGV[2] and pending == 0 and idle > tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)
  end
end
""")

MOVE = Script("""
-- KEYS: stream. ARGV: group, consumer, who gets them, a channel that wakes the others or '', ids. What another consumer
-- has by now stays there. Trimmed entries that are handed back stay pending: the member that finds them reports them.
for i = 5, #ARGV do
  local id = ARGV[i]
  local is_mine = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1]
  if is_mine and (ARGV[2] == ARGV[3] or redis.call('XRANGE', KEYS[1], id, id)[1]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, id, 'JUSTID')
  end
end
if ARGV[4] ~= '' then redis.pcall('PUBLISH', ARGV[4], '') end
""")

LEAVE = Script("""
-- KEYS: stream. ARGV: group, consumer, who gets what is pending, a channel that wakes the others.
if redis.call('EXISTS', KEYS[1]) == 0 then return end
local from, left, moved = '-', 0, 0
while true do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', 1000, ARGV[2])
  for _, each in ipairs(pending) do
    local id = each[1]
    if redis.call('XRANGE', KEYS[1], id, id)[1] then
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, id, 'JUSTID')
      moved = moved + 1
    else
      left = left + 1
    end
  end
  if #pending < 1000 then break end
  from = '(' .. pending[1000][1]
end
if left == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
if moved > 0 then redis.pcall('PUBLISH', ARGV[4], '') end
""")

# A bridge that has lost its name must not write a position: it belongs to another. A name that is kept is extended
# without SET, which a server without memory would refuse.
HOLD_NAME = Script("""
-- KEYS: who has the name, positions. ARGV: who wants it, milliseconds, 0 to give it back, what the positions are.
-- Returns whether it has the name.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
if owner then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif ARGV[2] ~= '0' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1]) end
return 1
""")
