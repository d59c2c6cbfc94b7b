-- read_flow_run_states_as_of.timestamp(flow_run_ids text, at text) -> many FlowRunState
-- The state of each run that had begun last at a moment, one index probe a run.
select /* slot: state */ state.* /* end */
  from unnest($1::text::uuid[]) as run (id)
 cross join lateral (
       select flow_run_state.*
         from flow_run_state
        where flow_run_state.flow_run_id = run.id
          and flow_run_state.timestamp <= $2::text::timestamptz
        order by flow_run_state.timestamp desc
        limit 1) as state;
