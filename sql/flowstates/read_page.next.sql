-- read_page.next(transaction text, timestamp text, id text, most text) -> many row
-- The same without a filter, where it was looked at what can make an answer untrue: who follows a feed asks this again and again, and an empty page
-- costs half of what it would cost with all of that. One row without a state where there is none.
select /* slot: state */ state.* /* end */, state.transaction::text as transaction,
       (select pruned.transaction
          from flowstates_pruned as pruned
         where (pruned.transaction, pruned.timestamp, pruned.id) > ($1::text::xid8, $2::text::timestamptz, $3::text::uuid)
         order by pruned.transaction desc, pruned.timestamp desc, pruned.id desc
         limit 1)::text as missing,
       (pg_snapshot_xmin(pg_current_snapshot()) < pg_snapshot_xmax(pg_current_snapshot()))::text as is_open,
       -- As a position is that comes from another cluster, say.
       ($1::text::xid8 > pg_snapshot_xmax(pg_current_snapshot()))::text as is_ahead
  from (values (1)) as answer
  left join (
       select state.*
         from (select state.*
                 from flow_run_state as state
                -- What is given is looked up in a query, so that one plan serves all positions.
                where (state.transaction, state.timestamp, state.id)
                      > ((select $1::text::xid8), (select $2::text::timestamptz), (select $3::text::uuid))
                  and state.transaction < pg_snapshot_xmin(pg_current_snapshot())
                order by state.transaction, state.timestamp, state.id
                limit 10001) as state
        order by state.transaction, state.timestamp, state.id
        limit (select $4::text::bigint)) as state on true
 order by state.transaction, state.timestamp, state.id;
