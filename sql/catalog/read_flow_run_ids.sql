-- read_flow_run_ids(first text, last text) -> many row
-- The first six runs whose ids are in a range: those that begin alike.
select flow_run.id::text as id
  from flow_run
 where flow_run.id between $1::text::uuid and $2::text::uuid
 order by flow_run.id
 limit 6;
