-- prune.oldest(types text[]) -> many row
-- The run whose last state is the oldest, of these types, and when it ended; no row if there is none. A run that only Prefect's scheduler has touched has no time.
select flow_run.id::text as id, flow_run.state_type::text as type,
       to_json(coalesce(flow_run.end_time, flow_run.state_timestamp) at time zone 'UTC')::text as timestamp
  from flow_run
 where flow_run.state_timestamp is not null
   and flow_run.state_type::text = any ($1::text[])
 order by flow_run.state_timestamp
 limit 1;
