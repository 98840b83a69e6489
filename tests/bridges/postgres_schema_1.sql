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
insert into hubsub.version values (1);

-- The channel by which readers of a namespace are woken.
create function hubsub.bell(space text) returns text language sql immutable as $$
    select case when space ~ '^[ -~]{1,48}$' and strpos(space, ':') = 0 then space
        else 'hubsub:' || left(encode(sha256(convert_to(space, 'UTF8')), 'hex'), 32) end || ':log'
$$;

-- Begins the log of a namespace, if there is none. What is left of an earlier one is of no use.
create function hubsub.start_log(space text) returns void language plpgsql as $$
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
create function hubsub.store(head hubsub.log, keys text[], datas bytea[], whose text) returns void
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

-- Stores what is not stored yet of a sender's messages, and keeps no more than so many.
create function hubsub.append(space text, who text, sequences bigint[], keys text[], datas bytea[], most bigint)
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
    if known >= sequences[1] then
        select array_agg(k order by i), array_agg(d order by i) into keys, datas
            from unnest(sequences, keys, datas) with ordinality as t (s, k, d, i) where s > known;
    end if;
    if cardinality(keys) > 0 then
        perform hubsub.store(head, keys, datas, null);
        insert into hubsub.sender values (space, who, sequences[cardinality(sequences)], clock_timestamp())
            on conflict (namespace, sender) do update set last = excluded.last, time = excluded.time;
        if most is not null then
            delete from hubsub.message where namespace = space and number <= head.last + cardinality(keys) - most;
        end if;
    end if;
    return true;
end $$;

-- The number of the last message that was stored before a time: times never fall.
create function hubsub.before(space text, moment timestamptz) returns bigint language plpgsql stable as $$
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
create function hubsub.tidy(space text, age double precision) returns void language plpgsql as $$
begin
    delete from hubsub.sender where namespace = space and time < clock_timestamp() - interval '1 day';
    if age is not null then
        delete from hubsub.message where namespace = space
            and number <= hubsub.before(space, clock_timestamp() - age * interval '1 second');
    end if;
end $$;

-- What of a group nobody has in hand. The last row says the epoch, and how many messages there are no more; it is
-- missing if there is no such group.
create function hubsub.take(space text, grp text, me text, most integer, bytes bigint, lease double precision)
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
create function hubsub.redeliver(space text, which bigint) returns boolean language plpgsql as $$
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
create function hubsub.deliver_staged() returns trigger language plpgsql security definer
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

create constraint trigger deliver after insert on hubsub.staged deferrable initially deferred
    for each row execute function hubsub.deliver_staged();

create function hubsub.publish(key text, message text, namespace text default 'hubsub') returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if key is null or namespace is null then
        raise exception 'a message needs a key and a namespace' using errcode = 'null_value_not_allowed';
    end if;
    insert into hubsub.staged (namespace, key, data) values (namespace, key, convert_to(message, 'UTF8'));
end $$;

create function hubsub.publish(key text, message json, namespace text default 'hubsub') returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select hubsub.publish(key, message::text, namespace)
$$;

create function hubsub.publish(key text, message jsonb, namespace text default 'hubsub') returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select hubsub.publish(key, message::text, namespace)
$$;
