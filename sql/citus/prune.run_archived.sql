-- prune.run_archived(flow_run_id text, type text, before text) -> many row
-- The same, with the states that went, oldest first, and what the row of each took.
select /* slot: state */ state.* /* end */,
       (100 + pg_column_size(state.name) + coalesce(pg_column_size(state.message), 0) + pg_column_size(state.state_details)
        + coalesce(pg_column_size(state.data), 0))::text as bytes
  from prune_flow_run($1::text::uuid, $2::text, $3::text, 'flow_run'::regclass) as state
 order by state.timestamp;
