-- read_flow_run_state_page.current_time(timestamp text, flow_run_id text, most text, types text) -> many FlowRunState
-- Current states of some types that a filter lets through after a position in the order of time and, at one time, of runs.
-- The time is the state's, since the run's row may have none; so every call sorts all runs that are in these types.
select /* slot: state */ state.* /* end */
  from (select state.*
          from flow_run
          join flow_run_state as state on state.id = flow_run.state_id
         where flow_run.state_type = any ($4::text::state_type[])
           and (state.timestamp, state.flow_run_id) > ($1::text::timestamptz, $2::text::uuid)
           and (/* slot: filter */ true /* end */)
         order by state.timestamp, state.flow_run_id
         limit $3::text::bigint) as state
 order by state.timestamp, state.flow_run_id;
