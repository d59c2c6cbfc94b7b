-- read_disagreeing_runs(after text, most text) -> many row
-- Of the next runs after an id, of the first ones without it, those whose row is not what their states say, and what it should be; last in any
-- case the last of them, from which to go on.
-- Runs that have states are found by a probe each, as their number says nothing about that of their states.
with recursive run_with_states as (
    (select flow_run_id as id
       from flow_run_state
      where ($1::text is null or flow_run_id > $1::text::uuid)
      order by flow_run_id
      limit 1)
     union all
    select (select flow_run_id from flow_run_state where flow_run_id > run_with_states.id order by flow_run_id limit 1)
      from run_with_states
     where run_with_states.id is not null
), page as (
    select id
      from (
           (select id from flow_run where ($1::text is null or id > $1::text::uuid) order by id limit $2::text::bigint)
            union
           (select id from run_with_states where id is not null limit $2::text::bigint)
           ) as run
     order by id
     limit $2::text::bigint
), compared as (
    select page.id,
           case when flow_run.id is null then 'a row in flow_run with the state_id ' || newest.id
                when newest.id is null then 'no row in flow_run, as it has no state'
                when flow_run.state_id is distinct from newest.id then 'the state_id ' || newest.id || ', its newest state'
                else 'in flow_run what state ' || newest.id || ' says'
            end as expected,
           case when flow_run.id is null then 'none'
                when newest.id is null then 'one'
                when flow_run.state_id is distinct from newest.id then flow_run.state_id::text
                else 'another ' || nullif(concat_ws(', ',
                       case when flow_run.state_type is distinct from newest.type then 'state_type' end,
                       case when flow_run.state_name is distinct from newest.name then 'state_name' end,
                       case when flow_run.state_timestamp is distinct from newest.timestamp then 'state_timestamp' end,
                       case when flow_run.transaction < newest.transaction then 'transaction' end), '')
            end as found
      from page
      left join flow_run on flow_run.id = page.id
      left join lateral (
           select id, type, name, timestamp, transaction
             from flow_run_state
            where flow_run_id = page.id
            order by timestamp desc
            limit 1) as newest on true
)
select id::text as flow_run_id, expected, found
  from compared
 where found is not null
    or id = (select id from page order by id desc limit 1)
 order by id;
