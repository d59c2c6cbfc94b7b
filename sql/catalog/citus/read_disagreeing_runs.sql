-- read_disagreeing_runs(after text, most text) -> many row
-- On Citus, of the next runs after an id, of the first ones without it, those whose row is not what their states say, and what it should be; last in
-- any case the last of them, from which to go on.
with bound as materialized (
    select (array_agg(id order by id desc))[1] as id
      from (select id
              from (
                   (select id from flow_run where ($1::text is null or id > $1::text::uuid) order by id limit $2::text::bigint)
                    union
                   (select distinct flow_run_id
                      from flow_run_state
                     where ($1::text is null or flow_run_id > $1::text::uuid)
                     order by flow_run_id
                     limit $2::text::bigint)
                   ) as run
             order by id
             limit $2::text::bigint) as page
), compared as (
    select flow_run.id,
           case when newest.id is null then 'no row in flow_run, as it has no state'
                when flow_run.state_id <> newest.id then 'the state_id ' || newest.id || ', its newest state'
                else 'in flow_run what state ' || newest.id || ' says'
            end as expected,
           case when newest.id is null then 'one'
                when flow_run.state_id <> newest.id then flow_run.state_id::text
                else 'another ' || nullif(concat_ws(', ',
                       case when flow_run.state_type <> newest.type then 'state_type' end,
                       case when flow_run.state_name <> newest.name then 'state_name' end,
                       case when flow_run.state_timestamp <> newest.timestamp then 'state_timestamp' end), '')
            end as found
      from bound
      join flow_run on flow_run.id <= bound.id
      left join lateral (
           select id, type, name, timestamp
             from flow_run_state
            where flow_run_id = flow_run.id
            order by timestamp desc
            limit 1) as newest on true
     where ($1::text is null or flow_run.id > $1::text::uuid)
     union all
    select distinct state.flow_run_id, 'a row in flow_run', 'none'
      from bound
      join flow_run_state as state on state.flow_run_id <= bound.id
     where ($1::text is null or state.flow_run_id > $1::text::uuid)
       and not exists (select from flow_run where flow_run.id = state.flow_run_id)
)
select id::text as flow_run_id, expected, found
  from compared
 where found is not null
    or id = (select id from bound)
 order by id;
