-- consume.lock(name text) -> optional row
-- How far a consumer has come, locked until the transaction ends; no row for an unknown one. It waits for who has it.
select transaction::text as transaction, to_json(timestamp at time zone 'UTC')::text as timestamp, id::text as id, known::text as known,
       -- Ahead of the number at which its row was written, as after a restore, also when this cluster has come further since.
       (age(xmin) <= 2147483646
        and transaction::text::bigint > pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                                        - (age(xmin)::bigint - age(pg_snapshot_xmax(pg_current_snapshot())::xid)))::text as is_foreign
  from flowstates_consumer
 where name = $1::text
   for no key update;
