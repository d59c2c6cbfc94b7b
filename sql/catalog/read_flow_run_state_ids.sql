-- read_flow_run_state_ids(first text, last text) -> many row
-- The first six states whose ids are in a range: those that begin alike.
select state.id::text as id
  from flow_run_state as state
 where state.id between $1::text::uuid and $2::text::uuid
 order by state.id
 limit 6;
