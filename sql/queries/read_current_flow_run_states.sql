-- read_current_flow_run_states(flow_run_ids text) -> many FlowRunState
-- The newest state of each run, one index probe a run; no row for a run without history.
-- The ids are one text in the form of an array, which costs the client less than an array of texts.
select /* slot: state */ state.* /* end */
  from unnest($1::text::uuid[]) as run (id)
 cross join lateral (
       select flow_run_state.*
         from flow_run_state
        where flow_run_state.flow_run_id = run.id
        order by flow_run_state.timestamp desc
        limit 1) as state;
