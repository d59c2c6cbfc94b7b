-- read_current_flow_run_states(flow_run_ids text) -> many FlowRunState
-- The state that each run's row names, two index probes a run; no row for a run that names none.
select /* slot: state */ state.* /* end */
  from unnest($1::text::uuid[]) as run (id)
  join flow_run on flow_run.id = run.id
  join flow_run_state as state on state.id = flow_run.state_id;
