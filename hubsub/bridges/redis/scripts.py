"""What Redis runs for the streams' adapter, each with nothing happening in between."""

from __future__ import annotations

from hashlib import sha1


class Script:
    """Lua, and the name by which a server knows it."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


# The epoch is a random string beside the stream, a new one for each stream of that name: entries that were deleted with
# their stream, and other ones added to the same number, would look like the ones that we know.

APPEND = Script("""
-- KEYS: stream, what this sender stored last, epoch.
-- ARGV: length to trim to or '', seconds to remember, a new epoch;
-- then of each record: sequence, number of arguments, arguments.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[3], ARGV[3])
end
local stored = redis.call('GET', KEYS[2]) or '-1'
local trim = ARGV[1] ~= ''
local refused = {}
local at, index = 4, 0
while at < #ARGV do
  local first, last = at + 2, at + 1 + tonumber(ARGV[at + 1])
  if tonumber(ARGV[at]) > tonumber(stored) then
    local reply
    if trim then
      reply = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, first, last))
    else
      reply = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, first, last))
    end
    if type(reply) == 'table' and reply.err then
      refused[#refused + 1] = {index, reply}
    else
      stored = ARGV[at]
    end
  end
  at, index = last + 1, index + 1
end
redis.call('SET', KEYS[2], stored, 'EX', ARGV[2])
return refused
""")

JOIN = Script("""
-- KEYS: stream, epoch. ARGV: group, id to begin after, a new epoch. Returns whether the group is new.
local from, read = ARGV[2], nil
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[2], ARGV[3])
  read = 0
else
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  local stream = {}
  for i = 1, #info, 2 do stream[info[i]] = info[i + 1] end
  if from == '$' then
    read = stream['entries-added']
  elseif from == '0-0' then
    read = stream['entries-added'] - stream['length']
  end
end
local reply
if read then
  reply = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], from, 'MKSTREAM', 'ENTRIESREAD', read)
else
  reply = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], from, 'MKSTREAM')
end
if not reply.err then return 1 end
if string.find(reply.err, 'BUSYGROUP', 1, true) then return 0 end
return reply
""")

# The server counts what a group has read one by one, past what was trimmed too: whoever sees the difference tells it,
# and sets the count right, so that nobody else does. A server that was restarted has forgotten the count, so it is
# noted beside the stream.
MISSED = Script("""
-- KEYS: stream, what the group had read, epoch. ARGV: group. Returns how many entries are gone that it has not read.
local function named(list)
  local map = {}
  for i = 1, #list, 2 do map[list[i]] = list[i + 1] end
  return map
end
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local stream = named(redis.call('XINFO', 'STREAM', KEYS[1]))
for _, each in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = named(each)
  if group['name'] == ARGV[1] then
    local last, read = group['last-delivered-id'], group['entries-read']
    local epoch = redis.call('GET', KEYS[3]) or ''
    local note = redis.call('GET', KEYS[2]) or ''
    local id, count, of = string.match(note, '^(%S+) (%d+) (.*)$')
    if of == epoch and (not read or read < tonumber(count)) then
      read = tonumber(count) + #redis.call('XRANGE', KEYS[1], '(' .. id, last)
      redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', read)
    end
    if not read then return 0 end
    local gone = stream['entries-added'] - stream['length']
    if last == stream['last-generated-id'] then gone = stream['entries-added'] end
    local missed = math.max(0, gone - read)
    if missed > 0 then
      read = gone
      redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', read)
    end
    local now = last .. ' ' .. string.format('%.0f', read) .. ' ' .. epoch
    if now ~= note then redis.call('SET', KEYS[2], now) end
    return missed
  end
end
return 0
""")

# Not XREADGROUP, which would count another delivery: that its reply was lost is nobody's failure. Not XAUTOCLAIM, which
# takes what was trimmed out of the hands of whoever is busy with it.
RECLAIM = Script("""
-- KEYS: stream. ARGV: group, consumer, bound to begin at, how many, and to take from others: milliseconds of the lease.
-- Returns the last id looked at, entries with their deliveries, and how many are gone.
local lease = ARGV[5]
local pending
if lease then
  pending = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', lease, ARGV[3], '+', ARGV[4])
else
  pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], '+', ARGV[4], ARGV[2])
end
local last, entries, gone = false, {}, 0
for _, each in ipairs(pending) do
  local id, consumer, deliveries = each[1], each[2], each[4]
  last = id
  if not lease or consumer ~= ARGV[2] then
    local found = redis.call('XRANGE', KEYS[1], id, id)[1]
    if not found then
      gone = gone + redis.call('XACK', KEYS[1], ARGV[1], id)
    elseif lease then
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id)
      entries[#entries + 1] = {id, found[2], deliveries + 1}
    else
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
      entries[#entries + 1] = {id, found[2], deliveries}
    end
  end
end
return {last, entries, gone}
""")

TIDY = Script("""
-- KEYS: stream. ARGV: group, consumer, milliseconds. Removes those who have nothing and were not heard of for so long.
for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local name, pending, idle = each[2], each[4], each[6]
  if name ~= ARGV[2] and pending == 0 and idle > tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)
  end
end
""")

EXTEND = Script("""
-- KEYS: stream. ARGV: group, consumer, ids. Whatever another consumer has by now stays his.
for i = 3, #ARGV do
  if redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])[1] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
end
""")

LEAVE = Script("""
-- KEYS: stream. ARGV: group, consumer. What is pending is kept, for others to claim.
if redis.call('EXISTS', KEYS[1]) == 0 then return end
for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  if each[2] == ARGV[2] and each[4] == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
  end
end
""")

TAKE_NAME = Script("""
-- KEYS: who has the name. ARGV: who wants it, milliseconds.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")

GIVE_NAME = Script("""
-- KEYS: who has the name. ARGV: who gives it back.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
""")
