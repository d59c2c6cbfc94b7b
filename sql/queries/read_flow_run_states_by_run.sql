-- read_flow_run_states_by_run(flow_run_ids text, last text) -> many FlowRunState
-- The newest states of each run, newest first within a run, one index probe a run.
select /* slot: state */ state.* /* end */
  from unnest($1::text::uuid[]) as run (id)
 cross join lateral (
       select flow_run_state.*
         from flow_run_state
        where flow_run_state.flow_run_id = run.id
        order by flow_run_state.timestamp desc
        limit $2::text::bigint) as state;
