-- read_page(updated text, id text, bound text, most text, looked text, slack text, is_joined text) -> many row
-- The next states after a position that a filter lets through, in the order of (updated, id) up to a bound, less the slack; it looks at so many states
-- and gives so many. One row without a state where there is none. Besides, what a later page may go up to.
-- The bound is of an earlier statement, as what commits between this one's snapshot and its look at open transactions would be skipped.
-- What is given is looked up in a query, as in the text for our own tables.
with given as materialized (
    select $1::text::timestamptz as updated, $2::text::uuid as id, $3::text::timestamptz as bound, $5::text::bigint as looked,
           $6::text::interval as slack
), /* slot: open */ open as (
    select statement_timestamp() as begun, null::text as unseen
) /* end */, looked as materialized (
    select state.*
      from (select state.*
              from flow_run_state as state
             where (state.updated, state.id) > ((select updated from given), (select id from given))
               and state.updated < (select bound - slack from given)
             order by state.updated, state.id
             limit 10001) as state
     order by state.updated, state.id
     limit (select looked from given)
), page as materialized (
    select state.*
      from looked as state
     where (/* slot: filter */ true /* end */)
     order by state.updated, state.id
     limit $4::text::bigint
), answer as materialized (
    select case when pg_is_in_recovery() then 'standby'
                when $7::text::boolean and current_setting('transaction_isolation') in ('repeatable read', 'serializable') then 'snapshot'
                when given.bound > statement_timestamp() + given.slack then 'position'
                when exists (select from pg_catalog.pg_subscription_rel where srrelid = 'flow_run_state'::regclass) then 'copy'
            end as fault, open.begun, open.unseen
      from given
     cross join open
)
select /* slot: state */ state.* /* end */, answer.fault,
       to_json(answer.begun at time zone 'UTC')::text as begun, answer.unseen,
       -- When the first was sent of the states that wait and would be told if nothing were open.
       (select to_json(waiting.updated at time zone 'UTC')
          from flow_run_state as waiting
         where (waiting.updated, waiting.id) > ((select updated from given), (select id from given))
           and waiting.updated >= (select bound - slack from given)
           and waiting.updated < statement_timestamp() - (select slack from given)
         order by waiting.updated
         limit 1)::text as waiting,
       -- How far it looked, where that is not how far it tells.
       case when (select count(*) from page) < $4::text::bigint
            then (select json_build_array(to_json(state.updated at time zone 'UTC'), state.id, (select count(*) from looked))::text
                    from looked as state
                   order by state.updated desc, state.id desc
                   limit 1)
        end as reached
  from answer
  left join page as state on true
 order by state.updated, state.id;
