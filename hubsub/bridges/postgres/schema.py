"""The tables and functions of logs in PostgreSQL: all of them in one schema, `hubsub`."""

from __future__ import annotations

from collections.abc import Iterable

VERSION = 2
"""Of the tables, as the table `version` says it."""

# `log` says of each namespace how far it is: whoever appends has its row until the transaction ends, so numbers have no
# holes and are seen in their order. `shared` is a group: what nobody has got yet begins with `next`. What was handed
# back is in hand of nobody. What a dead letter becomes that is sent back is for its `reader` alone.
# The index of `in_hand` begins with the time. As long as nothing is known of the table, one that began like the primary
# key would be used in place of that, and gone through as a whole for each number.
TABLES = """
create schema hubsub;
create table hubsub.version (version integer not null);
create table hubsub.log (namespace text primary key, epoch text not null, last bigint not null,
    time timestamptz not null);
create table hubsub.message (namespace text, number bigint, key text not null, data bytea, time timestamptz not null,
    reader text, primary key (namespace, number));
create table hubsub.sender (namespace text, sender text, last bigint not null, time timestamptz not null,
    primary key (namespace, sender));
create table hubsub.name (namespace text, name text, place text, owner text, until timestamptz,
    primary key (namespace, name));
create table hubsub.shared (namespace text, name text, next bigint not null, primary key (namespace, name));
create table hubsub.in_hand (namespace text, name text, number bigint, owner text, until timestamptz not null,
    attempts integer not null, primary key (namespace, name, number));
create index in_hand_until on hubsub.in_hand (until, namespace, name);
create table hubsub.dead (number bigint generated always as identity primary key, namespace text not null,
    reader text not null, key text not null, data bytea, reason text not null, attempts integer not null, position text,
    time timestamptz not null default clock_timestamp());
create index dead_of_namespace on hubsub.dead (namespace, number);
create table hubsub.staged (number bigint generated always as identity primary key, namespace text not null,
    key text not null, data bytea);
"""

DELAYED = """
create table hubsub.delayed (number bigint generated always as identity primary key, namespace text not null,
    key text not null, data bytea, due timestamptz not null);
create index delayed_due on hubsub.delayed (namespace, due, number);
"""

FUNCTIONS = """
-- The channel by which readers of a namespace are woken.
create or replace function hubsub.bell(space text) returns text language sql immutable as $$
    select case when space ~ '^[ -~]{1,48}$' and strpos(space, ':') = 0 then space
        else 'hubsub:' || left(encode(sha256(convert_to(space, 'UTF8')), 'hex'), 32) end || ':log'
$$;

-- Begins the log of a namespace, if there is none. What is left of an earlier one is of no use.
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

-- Stores messages behind the last one; the row of the log is locked.
create or replace function hubsub.store(head hubsub.log, keys text[], datas bytea[], whose text) returns void
language plpgsql as $$
declare
    -- A clock that is set back does not disturb the order of times.
    moment timestamptz := greatest(head.time, clock_timestamp());
    size integer := cardinality(keys);
begin
    insert into hubsub.message
        select head.namespace, head.last + i, k, d, moment, whose
        from unnest(keys, datas) with ordinality as t (k, d, i);
    update hubsub.log set last = head.last + size, time = moment where namespace = head.namespace;
    perform pg_notify(hubsub.bell(head.namespace), '');
end $$;

-- Keeps messages until they are due, in seconds since the epoch, and notifies the bridges of the first of them.
create or replace function hubsub.delay(space text, keys text[], datas bytea[], dues double precision[]) returns void
language plpgsql as $$
declare
    soonest double precision;
begin
    insert into hubsub.delayed (namespace, key, data, due)
        select space, k, d, to_timestamp(t) from unnest(keys, datas, dues) with ordinality as u (k, d, t, i)
        where t is not null order by i;
    select min(t) - extract(epoch from clock_timestamp()) into soonest from unnest(dues) t;
    if soonest is not null then
        perform pg_notify(hubsub.bell(space) || ':due', soonest::text);
    end if;
end $$;

-- Stores what is not stored yet of a sender's messages, and keeps no more than so many.
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

-- Numbers and stores the first of the delayed messages that are due, in the order of their times. Returns after how
-- many seconds the next one is due; null if there is none.
create or replace function hubsub.release(space text, most bigint, bytes bigint) returns double precision
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
            return null;
        end if;
        -- Of several bridges that come here at once, the first one has released them now.
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
    return (select extract(epoch from min(due) - clock_timestamp()) from hubsub.delayed where namespace = space);
end $$;

-- The number of the last message that was stored before a time: times never fall.
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

-- Deletes what is too old.
create or replace function hubsub.tidy(space text, age double precision) returns void language plpgsql as $$
begin
    delete from hubsub.sender where namespace = space and time < clock_timestamp() - interval '1 day';
    if age is not null then
        delete from hubsub.message where namespace = space
            and number <= hubsub.before(space, clock_timestamp() - age * interval '1 second');
    end if;
end $$;

-- What of a group nobody has in hand. The last row says the epoch, and how many messages there are no more; it is
-- missing if there is no such group.
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
    -- What was handed back, or whose lease is over; not what another member is taking at this moment.
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

-- Sends a dead letter back to whoever gave it up.
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

-- The transactional outbox. A message is staged, and gets its number when the transaction commits: so the row of the
-- log is not locked before, and a long transaction holds up nobody. All this has the rights of whoever made the schema.
create or replace function hubsub.deliver_staged() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    head hubsub.log;
    keys text[];
    datas bytea[];
begin
    -- All that can be seen there is of this transaction: what others have committed is delivered.
    -- The first call does it for all.
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

-- One that is due later needs no number at commit.
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

TRIGGER = """
create constraint trigger deliver after insert on hubsub.staged deferrable initially deferred
    for each row execute function hubsub.deliver_staged();
"""

# Functions whose parameters have changed are dropped. Who has the rights of a bridge has them on the new table, too.
TO_2 = f"""{DELAYED}
drop function hubsub.append(text, text, bigint[], text[], bytea[], bigint);
drop function hubsub.publish(text, text, text);
drop function hubsub.publish(text, json, text);
drop function hubsub.publish(text, jsonb, text);
do $$
declare
    role text;
begin
    for role in
        select distinct case a.grantee when 0 then 'public' else a.grantee::regrole::text end
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = 'hubsub.message'::regclass and a.privilege_type = 'INSERT' and a.grantee <> c.relowner
    loop
        execute format('grant select, insert, update, delete on hubsub.delayed to %s', role);
    end loop;
end $$;
"""
CHANGES = {1: TO_2}
"""What makes tables of a version those of the next one, but for the functions."""


def making(version: int | None = None) -> str:
    """Return what makes all of it, in one transaction.

    Args:
        version: That of tables which are there already, at most `VERSION`; None if there are none.

    Raises:
        ValueError: There is no such version.
    """
    if version is None:
        return f"{TABLES}{DELAYED}insert into hubsub.version values ({VERSION});\n{FUNCTIONS}{TRIGGER}"
    if not 0 < version <= VERSION:
        raise ValueError(f"the tables have a version from 1 to {VERSION}, not {version}")
    changes = "".join(CHANGES[each] for each in range(version, VERSION))
    return f"{changes}update hubsub.version set version = {VERSION};\n{FUNCTIONS}"


def script(bridges: Iterable[str] = (), publishers: Iterable[str] = (), version: int | None = None) -> str:
    """Return what makes all of it, for psql, with the rights of roles that have bridges, or that only publish.

    Args:
        bridges: Those roles.
        publishers: And those.
        version: As for `making`.
    """
    lines = ["begin;", making(version).strip()]
    lines += (f"grant usage on schema hubsub to {_quoted(role)};" for role in (*bridges, *publishers))
    rights = "grant select, insert, update, delete on all tables in schema hubsub to"
    lines += (f"{rights} {_quoted(role)};" for role in bridges)
    return "\n".join([*lines, "commit;", ""])


def _quoted(role: str) -> str:
    return '"' + role.replace('"', '""') + '"'
