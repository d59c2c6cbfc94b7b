-- read_disagreeing_prefect_runs(after text, most text) -> many row
-- Of the next runs of Prefect after an id, of the first ones without it, those whose state_id names no state of theirs, or one of another type than
-- state_type says; last in any case the last of them, from which to go on. A run without a state_id says nothing.
with page as (
    select id, state_id, state_type
      from flow_run
     where ($1::text is null or id > $1::text::uuid)
     order by id
     limit $2::text::bigint
), compared as (
    select page.id,
           case when state.flow_run_id is distinct from page.id then 'a state of its own as state_id'
                else 'the state_type ' || state.type || ', which its state has'
            end as expected,
           case when page.state_id is null then null
                when state.id is null then page.state_id || ', which is none'
                when state.flow_run_id <> page.id then page.state_id || ' of run ' || state.flow_run_id
                when page.state_type is distinct from state.type then coalesce(page.state_type::text, 'null')
            end as found
      from page
      left join flow_run_state as state on state.id = page.state_id
)
select id::text as flow_run_id, expected, found
  from compared
 where found is not null
    or id = (select id from page order by id desc limit 1)
 order by id;
