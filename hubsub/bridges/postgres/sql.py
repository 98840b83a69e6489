"""The statements of the log. The tables and the functions in them are in `schema`."""

PAGE_BYTES = 1 << 20
"""The most bytes of payloads that one query reads or releases; but always at least one message."""

STATE = """select epoch, coalesce((select min(number) from hubsub.message where namespace = $1), last + 1) as first,
    last from hubsub.log where namespace = $1"""
READ = f"""with state as ({STATE})
    select s.epoch, s.first, s.last, m.number, m.key, m.data, extract(epoch from m.time)::double precision, m.reader,
        0
    from state s left join (
        select m.*, sum(octet_length(data)) over (order by number) - octet_length(data) as size_before from (
            select * from hubsub.message where namespace = $1 and number > $2 order by number limit $3
        ) m
    ) m on coalesce(m.size_before, 0) < {PAGE_BYTES} order by m.number"""
BEFORE = "select hubsub.before($1, to_timestamp($2::double precision))"
APPEND = "select hubsub.append($1, $2, $3, $4, $5, $6)"
APPEND_LATER = "select hubsub.append($1, $2, $3, $4, $5, $6, $7)"
RELEASE = f"select next, seconds from hubsub.release($1, $2, {PAGE_BYTES})"
NOTIFY = "select count(pg_notify($1, text)) from unnest($2::text[]) as t (text)"
# Whoever keeps a position for a name has to hold it already.
HOLD = """insert into hubsub.name values ($1, $2, $5, $3, clock_timestamp() + $4 * interval '1 second')
    on conflict (namespace, name) do update
    set owner = excluded.owner, until = excluded.until, place = coalesce(excluded.place, name.place)
    where name.owner = excluded.owner or (name.until <= clock_timestamp() and excluded.place is null)
    returning coalesce(place, '')"""
TAKE = "select * from hubsub.take($1, $2, $3, $4, $5, $6)"
DONE = "delete from hubsub.in_hand where (namespace, name) = ($1, $2) and number = any($3)"
JOIN = "insert into hubsub.shared values ($1, $2, $3) on conflict do nothing returning 1"
PROLONG = """update hubsub.in_hand set owner = case when $5::double precision > 0 then owner end,
    until = case when $5::double precision > 0 then clock_timestamp() + $5 * interval '1 second' else '-infinity' end
    where (namespace, name, owner) = ($1, $2, $3) and ($4::bigint[] is null or number = any($4))"""
BURY = """insert into hubsub.dead (namespace, reader, key, data, reason, attempts, position)
    values ($1, $2, $3, $4, $5, $6, $7)"""
TRIM_DEAD = """delete from hubsub.dead where namespace = $1 and number <=
    (select number from hubsub.dead where namespace = $1 order by number desc offset $2 limit 1)"""
DEAD = """select number, reader, key, data, reason, attempts, position, extract(epoch from time)::double precision
    from hubsub.dead where namespace = $1 and ($2::bigint is null or number < $2) order by number desc limit $3"""
