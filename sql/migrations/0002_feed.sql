-- How far the named consumers of the feed have come.

create table flowstates_consumer (
    name        text        not null,
    -- The place of the last state that was told, in the order of a feed.
    transaction xid8        not null,
    timestamp   timestamptz not null,
    id          uuid        not null,
    -- A snapshot: what was pruned as far as it sees is known to whom this is.
    known       text        not null default pg_current_snapshot()::text,
    updated     timestamptz not null default current_timestamp,

    constraint pk_flowstates_consumer primary key (name),
    constraint ck_flowstates_consumer__name check (name <> '')
) with (
    fillfactor = 50 -- each batch updates a row in its page
);
