-- read_flow_run_state_page.time_descending(timestamp text, id text, most text) -> many FlowRunState
-- States that a filter lets through before a position in the order of time, backwards.
-- On our own table an index gives the order; on Prefect's tables every call sorts all states that the filter lets through. Those of the page
-- are found before anything is made text.
select /* slot: state */ state.* /* end */
  from (select state.*
          from flow_run_state as state
         where (state.timestamp, state.id) < ($1::text::timestamptz, $2::text::uuid)
           and (/* slot: filter */ true /* end */)
         order by state.timestamp desc, state.id desc
         limit $3::text::bigint) as state
 order by state.timestamp desc, state.id desc;
