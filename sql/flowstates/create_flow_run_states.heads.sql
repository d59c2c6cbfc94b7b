-- create_flow_run_states.heads(flow_run_ids text[]) -> many row
-- Where each run's history ends, the transaction that its next states get, and the server's clock; times in microseconds since 1970, null for
-- a run without history. And whether a trigger of somebody's may change what is stored.
-- The runs' rows are locked until the transaction ends, in the order of their ids, by an update, which a transaction with an older
-- snapshot sees. A new run gets a row at a time that no state can have, until create_flow_run_states.currents; any id can be a state's.
insert into flow_run (id, state_id, state_type, state_name, state_timestamp, transaction)
select run.id, '00000000-0000-0000-0000-000000000000', 'SCHEDULED', '', '-infinity', pg_current_xact_id()
  from unnest($1::text[]::uuid[]) as run (id)
 order by run.id
    on conflict (id) do update set transaction = greatest(flow_run.transaction, excluded.transaction)
returning id::text as flow_run_id, (extract(epoch from nullif(state_timestamp, '-infinity')) * 1000000)::bigint::text as timestamp,
       transaction::text as transaction, (extract(epoch from clock_timestamp()) * 1000000)::bigint::text as now,
       -- For each row, before it is inserted or updated.
       (select exists (
               select
                 from pg_catalog.pg_trigger
                where tgrelid in ('flow_run_state'::regclass, 'flow_run'::regclass) and tgenabled <> 'D'
                  and tgtype & 3 = 3 and tgtype & 20 <> 0))::text as may_change;
