-- read_page.next(transaction text, timestamp text, id text, known text, most text) -> many row
-- The same without a filter, where it was looked at what can make an answer untrue: who follows a feed asks this again and again, and an empty page
-- costs half of what it would cost with all of that. It says whether all of that is to be asked. One row without a state where there is none.
-- What is given is looked up in a row, so that it is read once, and one plan serves all positions.
select /* slot: state */ state.* /* end */, state.transaction::text as transaction,
       (pg_snapshot_xmin(given.snapshot) < pg_snapshot_xmax(given.snapshot))::text as is_open,
       -- As a position is that comes from another cluster, say, or one behind which more is gone than it knows.
       (given.transaction > pg_snapshot_xmax(given.snapshot)
        or exists (select
                     from flowstates_pruned as pruned
                    where (pruned.transaction, pruned.timestamp, pruned.id) > (given.transaction, given.timestamp, given.id)
                      and not pg_visible_in_snapshot(pruned.pruned_by, given.known)))::text as is_doubtful
  from (values (pg_current_snapshot(), $1::text::xid8, $2::text::timestamptz, $3::text::uuid, nullif($4::text, '')::pg_snapshot, $5::text::bigint))
       as given (snapshot, transaction, timestamp, id, known, most)
  left join lateral (
       select state.*
         from (select state.*
                 from flow_run_state as state
                where (state.transaction, state.timestamp, state.id) > (given.transaction, given.timestamp, given.id)
                  and state.transaction < pg_snapshot_xmin(given.snapshot)
                order by state.transaction, state.timestamp, state.id
                limit 10001) as state
        order by state.transaction, state.timestamp, state.id
        limit given.most) as state on true
 order by state.transaction, state.timestamp, state.id;
