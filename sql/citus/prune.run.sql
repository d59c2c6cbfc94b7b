-- prune.run(flow_run_id text, type text, before text) -> many row
-- Deletes a run whose last state is still of a type and before a time; how many states went, and what their rows took. It waits for nobody.
select count(*)::text as states,
       coalesce(sum(100 + pg_column_size(state.name) + coalesce(pg_column_size(state.message), 0) + pg_column_size(state.state_details)
                    + coalesce(pg_column_size(state.data), 0)), 0)::text as bytes
  from prune_flow_run($1::text::uuid, $2::text, $3::text, 'flow_run'::regclass) as state;
