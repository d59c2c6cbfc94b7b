-- prune.states(type text, before text, after_timestamp text, after_id text, runs text, states text, flow_run_id text, first text, newest text, types text[], names text[], is_archived text) -> many row
-- Deletes of runs' histories what is not to stay, where the last state is of a type and before a time. The trigger on deletes updates the runs'
-- rows, as whoever changes a history must.
with /* slot: thinned */ chosen as (
    select id, xmin as version, '{}'::tid[] as places, 1 as states from flow_run
), reached as (
    select ''::text as timestamp, ''::text as id, true as is_last
) /* end */, /* slot: thinning */ locked as (
    select id, places, states from chosen
), gone as (
    delete from flow_run_state where ctid = any (array (select unnest(places) from locked)) returning *
) /* end */, run as (
    select id from locked
), noted as (
    -- For a feed that has not told them.
    insert into flowstates_pruned (transaction, timestamp, id)
    select gone.transaction, gone.timestamp, gone.id
      from gone
     where gone.transaction <> pg_current_xact_id()
       and (current_setting('transaction_isolation') = 'serializable'
            or not exists (
               select
                 from flowstates_pruned as own
                where own.pruned_by = pg_current_xact_id()
                  and (own.transaction, own.timestamp, own.id) >= (gone.transaction, gone.timestamp, gone.id)))
     order by gone.transaction desc, gone.timestamp desc, gone.id desc
     limit 1
        on conflict do nothing
), /* slot: pruned */ total as (
    select count(*) from gone
), passed as (
    select count(*) from chosen
)
select state.id /* end */
  from total
 cross join passed
  left join reached on true
  left join gone as state on $12::text::boolean
 order by state.flow_run_id, state.timestamp;
