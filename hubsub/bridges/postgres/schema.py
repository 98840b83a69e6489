"""The tables and functions of the log in PostgreSQL, all in the schema `hubsub`."""

from __future__ import annotations

import re
from collections.abc import Iterable

VERSION = 2
"""Of the tables, as the table `version` has it."""

# `log` has the last number of each namespace. An append locks its row until the transaction ends, so numbers have no
# holes and become visible in their order. In `shared` a group has the number `next` of the first message that no member
# has received. A message that was handed back has no owner in `in_hand`. A dead letter that is sent back is stored in
# `message` again, for its `reader` alone.
# The index of `in_hand` begins with the time. Before the table is analyzed, Postgres would prefer an index that began
# like the primary key, and scan all of it for each number.
TABLES = """
create table if not exists hubsub.version (version integer not null);
create table if not exists hubsub.log (namespace text primary key, epoch text not null, last bigint not null,
    time timestamptz not null);
create table if not exists hubsub.message (namespace text, number bigint, key text not null, data bytea,
    time timestamptz not null, reader text, primary key (namespace, number));
create table if not exists hubsub.sender (namespace text, sender text, last bigint not null, time timestamptz not null,
    primary key (namespace, sender));
create table if not exists hubsub.name (namespace text, name text, place text, owner text, until timestamptz,
    primary key (namespace, name));
create table if not exists hubsub.shared (namespace text, name text, next bigint not null,
    primary key (namespace, name));
create table if not exists hubsub.in_hand (namespace text, name text, number bigint, owner text,
    until timestamptz not null, attempts integer not null, primary key (namespace, name, number));
create index if not exists in_hand_until on hubsub.in_hand (until, namespace, name);
create table if not exists hubsub.dead (number bigint generated always as identity primary key,
    namespace text not null, reader text not null, key text not null, data bytea, reason text not null,
    attempts integer not null, position text, time timestamptz not null default clock_timestamp());
create index if not exists dead_of_namespace on hubsub.dead (namespace, number);
create table if not exists hubsub.staged (number bigint generated always as identity primary key,
    namespace text not null, key text not null, data bytea);
create table if not exists hubsub.delayed (number bigint generated always as identity primary key,
    namespace text not null, key text not null, data bytea, due timestamptz not null);
create index if not exists delayed_due on hubsub.delayed (namespace, due, number);
"""
NAMES = tuple(re.findall(r"table if not exists hubsub\.(\w+)", TABLES))

FUNCTIONS = """
-- Returns the channel whose notifications wake the readers of a namespace.
create or replace function hubsub.bell(space text) returns text language sql immutable as $$
    select case when space ~ '^[ -~]{1,48}$' and strpos(space, ':') = 0 then space
        else 'hubsub:' || left(encode(sha256(convert_to(space, 'UTF8')), 'hex'), 32) end || ':log'
$$;

-- Creates the log of a namespace, if there is none, and deletes what an earlier log has left.
create or replace function hubsub.start_log(space text) returns void language plpgsql as $$
begin
    perform from hubsub.log where namespace = space;
    if found then
        return;
    end if;
    insert into hubsub.log values (space, replace(gen_random_uuid()::text, '-', ''), 0, clock_timestamp())
        on conflict do nothing;
    if found then
        delete from hubsub.message where namespace = space;
        delete from hubsub.sender where namespace = space;
        delete from hubsub.shared where namespace = space;
        delete from hubsub.in_hand where namespace = space;
    end if;
end $$;

-- Stores messages after the last one; the caller has locked the row of the log.
create or replace function hubsub.store(head hubsub.log, keys text[], datas bytea[], whose text) returns void
language plpgsql as $$
declare
    -- Times never fall, even if the clock is set back.
    moment timestamptz := greatest(head.time, clock_timestamp());
    size integer := cardinality(keys);
begin
    insert into hubsub.message
        select head.namespace, head.last + i, k, d, moment, whose
        from unnest(keys, datas) with ordinality as t (k, d, i);
    update hubsub.log set last = head.last + size, time = moment where namespace = head.namespace;
    perform pg_notify(hubsub.bell(head.namespace), '');
end $$;

-- Keeps messages until they are due, and notifies the bridges when the first one is. The times in `dues` are seconds
-- since the epoch; where one is null, the message is skipped.
create or replace function hubsub.delay(space text, keys text[], datas bytea[], dues double precision[]) returns void
language plpgsql as $$
declare
    soonest double precision;
begin
    insert into hubsub.delayed (namespace, key, data, due)
        select space, k, d, to_timestamp(t) from unnest(keys, datas, dues) with ordinality as u (k, d, t, i)
        where t is not null order by i;
    select min(t) into soonest from unnest(dues) t;
    if soonest is not null then
        perform pg_notify(hubsub.bell(space) || ':due', soonest::text);
    end if;
end $$;

-- Stores those of a sender's messages that are not stored yet, and trims the log to `most` messages.
create or replace function hubsub.append(space text, who text, sequences bigint[], keys text[], datas bytea[],
    most bigint, dues double precision[] default null)
returns boolean language plpgsql as $$
declare
    head hubsub.log;
    known bigint;
begin
    select * into head from hubsub.log where namespace = space for update;
    if not found then
        return false;
    end if;
    select last into known from hubsub.sender where namespace = space and sender = who;
    if known >= sequences[cardinality(sequences)] then
        return true;
    elsif known >= sequences[1] then
        select array_agg(k order by i), array_agg(d order by i), array_agg(t order by i) into keys, datas, dues
            from unnest(sequences, keys, datas, dues) with ordinality as u (s, k, d, t, i) where s > known;
    end if;
    if dues is not null then
        perform hubsub.delay(space, keys, datas, dues);
        select coalesce(array_agg(k order by i), '{}'), array_agg(d order by i) into keys, datas
            from unnest(keys, datas, dues) with ordinality as u (k, d, t, i) where t is null;
    end if;
    if cardinality(keys) > 0 then
        perform hubsub.store(head, keys, datas, null);
        if most is not null then
            delete from hubsub.message where namespace = space and number <= head.last + cardinality(keys) - most;
        end if;
    end if;
    insert into hubsub.sender values (space, who, sequences[cardinality(sequences)], clock_timestamp())
        on conflict (namespace, sender) do update set last = excluded.last, time = excluded.time;
    return true;
end $$;

-- Numbers and stores delayed messages that are due, in the order of their times: a thousand at most, and no more than
-- so many bytes. Returns when the next one is due, in seconds since the epoch, and in how many seconds from now.
create or replace function hubsub.release(space text, most bigint, bytes bigint, out next double precision,
    out seconds double precision)
language plpgsql as $$
declare
    head hubsub.log;
    keys text[];
    datas bytea[];
    moment timestamptz := clock_timestamp();
begin
    perform from hubsub.delayed where namespace = space and due <= moment limit 1;
    if found then
        select * into head from hubsub.log where namespace = space for update;
        if not found then
            return;
        end if;
        -- If several bridges get here at once, the first one releases the messages, and the others find none.
        with taken as (
            delete from hubsub.delayed where number in (
                select d.number from (
                    select f.number, sum(octet_length(f.data)) over (order by f.due, f.number) - octet_length(f.data)
                        as before from (
                            select number, data, due from hubsub.delayed
                            where namespace = space and due <= moment order by due, number limit 1000
                        ) f
                ) d where coalesce(d.before, 0) < bytes
            ) returning number, key, data, due
        ) select array_agg(t.key order by t.due, t.number), array_agg(t.data order by t.due, t.number)
            into keys, datas from taken t;
        if keys is not null then
            perform hubsub.store(head, keys, datas, null);
            if most is not null then
                delete from hubsub.message where namespace = space and number <= head.last + cardinality(keys) - most;
            end if;
        end if;
    end if;
    select extract(epoch from min(due)), extract(epoch from min(due) - clock_timestamp()) into next, seconds
        from hubsub.delayed where namespace = space;
end $$;

-- Returns the number of the last message that was stored before a time, by binary search: times never fall.
create or replace function hubsub.before(space text, moment timestamptz) returns bigint language plpgsql stable as $$
declare
    low bigint;
    high bigint;
    middle bigint;
    at record;
begin
    select last into high from hubsub.log where namespace = space;
    select min(number) - 1 into low from hubsub.message where namespace = space;
    low := coalesce(low, high);
    while low < high loop
        middle := (low + high + 1) / 2;
        select number, time into at from hubsub.message
            where namespace = space and number >= middle order by number limit 1;
        if at.time < moment then
            low := at.number;
        else
            high := middle - 1;
        end if;
    end loop;
    return low;
end $$;

-- Deletes messages that are older than `age` seconds, and senders that were silent for a day.
create or replace function hubsub.tidy(space text, age double precision) returns void language plpgsql as $$
begin
    delete from hubsub.sender where namespace = space and time < clock_timestamp() - interval '1 day';
    if age is not null then
        delete from hubsub.message where namespace = space
            and number <= hubsub.before(space, clock_timestamp() - age * interval '1 second');
    end if;
end $$;

-- Takes messages of a group that no member has in hand. The last row has the epoch, and in `attempts` the number of
-- messages that no longer exist; without such a group no row is returned.
create or replace function hubsub.take(space text, grp text, me text, most integer, bytes bigint,
    lease double precision)
returns table (number bigint, key text, data bytea, at double precision, reader text, attempts integer)
language plpgsql as $$
#variable_conflict use_column
declare
    head hubsub.log;
    start bigint;
    due bigint[];
    chosen bigint[];
    gone bigint := 0;
    till timestamptz := clock_timestamp() + lease * interval '1 second';
begin
    select * into head from hubsub.log l where l.namespace = space;
    select s.next into start from hubsub.shared s where s.namespace = space and s.name = grp;
    if head.epoch is null or start is null then
        return;
    end if;
    -- Messages that were handed back, or whose lease is over, except those that another member is just taking.
    select array_agg(d.number) into due from (
        select i.number from hubsub.in_hand i
        where i.namespace = space and i.name = grp and i.until <= clock_timestamp()
        order by i.number limit most for update skip locked
    ) d;
    if due is not null then
        with deleted as (
            delete from hubsub.in_hand i
            where i.namespace = space and i.name = grp and i.number = any(due)
                and not exists (select from hubsub.message m where m.namespace = space and m.number = i.number)
            returning 1
        ) select count(*) into gone from deleted;
        select array_agg(s.number) into chosen from (
            select m.number, sum(octet_length(m.data)) over (order by m.number) - octet_length(m.data) as before
            from hubsub.message m where m.namespace = space and m.number = any(due)
        ) s where coalesce(s.before, 0) < bytes;
        update hubsub.in_hand i
            set owner = me, until = till, attempts = i.attempts + (i.owner is not null)::integer
            where i.namespace = space and i.name = grp and i.number = any(chosen);
    end if;
    if chosen is null and head.last >= start then
        select s.next into start from hubsub.shared s where s.namespace = space and s.name = grp for update;
        select array_agg(s.number order by s.number) into chosen from (
            select m.number, sum(octet_length(m.data)) over (order by m.number) - octet_length(m.data) as before
            from (
                select m.number, m.data from hubsub.message m
                where m.namespace = space and m.number between start and head.last order by m.number limit most
            ) m
        ) s where coalesce(s.before, 0) < bytes;
        if chosen is not null then
            insert into hubsub.in_hand select space, grp, c, me, till, 0 from unnest(chosen) c;
            gone := gone + chosen[cardinality(chosen)] + 1 - start - cardinality(chosen);
            start := chosen[cardinality(chosen)] + 1;
        elsif head.last >= start then
            gone := gone + head.last + 1 - start;
            start := head.last + 1;
        end if;
        update hubsub.shared s set next = start where s.namespace = space and s.name = grp;
    end if;
    return query
        select m.number, m.key, m.data, extract(epoch from m.time)::double precision, m.reader, i.attempts
        from hubsub.message m join hubsub.in_hand i
            on i.namespace = space and i.name = grp and i.number = m.number
        where m.namespace = space and m.number = any(chosen) order by m.number;
    return query select 0::bigint, head.epoch, null::bytea, null::double precision, null::text, gone::integer;
end $$;

-- Stores a dead letter as a message for the reader that gave it up; returns whether there was such a letter.
create or replace function hubsub.redeliver(space text, which bigint) returns boolean language plpgsql as $$
declare
    head hubsub.log;
    letter hubsub.dead;
begin
    select * into head from hubsub.log where namespace = space for update;
    delete from hubsub.dead where namespace = space and number = which returning * into letter;
    if letter.number is null or head.epoch is null then
        return false;
    end if;
    perform hubsub.store(head, array[letter.key], array[letter.data], letter.reader);
    return true;
end $$;

-- The transactional outbox. A message is staged, and gets its number when the transaction commits. So a long
-- transaction does not lock the row of the log, and delays no other publisher. These functions run with the rights of
-- the role that created the schema.
create or replace function hubsub.deliver_staged() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    head hubsub.log;
    keys text[];
    datas bytea[];
begin
    -- Every row that is visible there belongs to this transaction, since each commit empties the table. So the first
    -- call delivers all of them.
    with taken as (delete from hubsub.staged s where s.namespace = new.namespace returning s.*)
        select array_agg(t.key order by t.number), array_agg(t.data order by t.number) into keys, datas from taken t;
    if keys is null then
        return null;
    end if;
    perform hubsub.start_log(new.namespace);
    select * into head from hubsub.log where namespace = new.namespace for update;
    perform hubsub.store(head, keys, datas, null);
    return null;
end $$;

-- A message that is due later needs no number at commit, so it is not staged.
create or replace function hubsub.publish(key text, message bytea, namespace text default 'hubsub',
    due timestamptz default null)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if key is null or namespace is null then
        raise exception 'a message needs a key and a namespace' using errcode = 'null_value_not_allowed';
    end if;
    if due > clock_timestamp() then
        if due >= timestamptz '10000-01-01 00:00:00+00' then
            raise exception 'due is later than the year 9999' using errcode = 'datetime_field_overflow';
        end if;
        perform hubsub.delay(namespace, array[key], array[message], array[extract(epoch from due)::double precision]);
    else
        insert into hubsub.staged (namespace, key, data) values (namespace, key, message);
    end if;
end $$;

create or replace function hubsub.publish(key text, message text, namespace text default 'hubsub',
    due timestamptz default null)
returns void language sql security definer set search_path = pg_catalog, pg_temp as $$
    select hubsub.publish(key, convert_to(message, 'UTF8'), namespace, due)
$$;

create or replace function hubsub.publish(key text, message json, namespace text default 'hubsub',
    due timestamptz default null)
returns void language sql security definer set search_path = pg_catalog, pg_temp as $$
    select hubsub.publish(key, message::text, namespace, due)
$$;

create or replace function hubsub.publish(key text, message jsonb, namespace text default 'hubsub',
    due timestamptz default null)
returns void language sql security definer set search_path = pg_catalog, pg_temp as $$
    select hubsub.publish(key, message::text, namespace, due)
$$;
"""

# Creates, upgrades or repairs: what is there already stays, with all rows. Version 1 had functions with fewer
# parameters. Roles with the rights of a bridge get them for new tables, too.
SCRIPT = f"""
set local client_min_messages = warning;
do $$ begin
    if to_regnamespace('hubsub') is null then
        create schema hubsub;
    end if;
end $$;
{TABLES}
do $$
declare
    role text;
begin
    if (select max(version) from hubsub.version) > {VERSION} then
        raise exception 'the tables are of a newer hubsub than this one, which makes version {VERSION}';
    end if;
    delete from hubsub.version;
    insert into hubsub.version values ({VERSION});
    for role in
        select distinct case a.grantee when 0 then 'public' else a.grantee::regrole::text end
        from pg_class c, aclexplode(c.relacl) a
        where c.relnamespace = 'hubsub'::regnamespace and a.privilege_type = 'INSERT' and a.grantee <> c.relowner
    loop
        execute format('grant select, insert, update, delete on all tables in schema hubsub to %s', role);
    end loop;
end $$;
drop function if exists hubsub.append(text, text, bigint[], text[], bytea[], bigint);
drop function if exists hubsub.publish(text, text, text);
drop function if exists hubsub.publish(text, json, text);
drop function if exists hubsub.publish(text, jsonb, text);
{FUNCTIONS}
do $$ begin
    if not exists (select from pg_trigger where tgrelid = 'hubsub.staged'::regclass and tgname = 'deliver') then
        create constraint trigger deliver after insert on hubsub.staged deferrable initially deferred
            for each row execute function hubsub.deliver_staged();
    end if;
end $$;
"""
"""Creates the tables, or upgrades those of an older version; in one transaction."""


def script(bridges: Iterable[str] = (), publishers: Iterable[str] = ()) -> str:
    """Return `SCRIPT` for psql, with the rights of roles that have bridges, and of roles that only publish."""
    lines = ["begin;", SCRIPT.strip()]
    lines += (f"grant usage on schema hubsub to {_quoted(role)};" for role in (*bridges, *publishers))
    rights = "grant select, insert, update, delete on all tables in schema hubsub to"
    lines += (f"{rights} {_quoted(role)};" for role in bridges)
    return "\n".join([*lines, "commit;", ""])


def _quoted(role: str) -> str:
    return '"' + role.replace('"', '""') + '"'
