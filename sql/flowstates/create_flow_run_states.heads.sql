-- create_flow_run_states.heads(flow_run_ids text[]) -> many row
-- Where each run's history ends, and the server's clock, in microseconds since 1970; nulls for a run without history.
-- Both ends are locked until the transaction ends, in the order of the runs, so that nobody appends to these runs or deletes their ends
-- meanwhile. A distributed table refuses such locks on several shards at once: there a batch is to be of one run.
select run.id::text as flow_run_id, highest.sequence::text as sequence, (extract(epoch from current.timestamp) * 1000000)::bigint::text as timestamp,
       (extract(epoch from clock_timestamp()) * 1000000)::bigint::text as now
  from unnest($1::text[]::uuid[]) as run (id)
  left join lateral (
       select timestamp
         from flow_run_state
        where flow_run_id = run.id
        order by timestamp desc
        limit 1
          for update) as current on true
  left join lateral (
       select sequence
         from flow_run_state
        where flow_run_id = run.id
        order by sequence desc
        limit 1
          for update) as highest on true;
