-- prune.oldest(types text[]) -> many row
-- The run whose last state is the oldest, of these types; no row if there is none. One probe a type.
select oldest.id::text as id, oldest.state_type::text as type, to_json(oldest.state_timestamp at time zone 'UTC')::text as timestamp
  from unnest($1::text[]::state_type[]) as asked (type)
 cross join lateral (
       select flow_run.id, flow_run.state_type, flow_run.state_timestamp
         from flow_run
        where flow_run.state_type = asked.type
        order by flow_run.state_timestamp, flow_run.id
        limit 1) as oldest
 order by oldest.state_timestamp, oldest.id
 limit 1;
