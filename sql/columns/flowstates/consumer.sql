-- How far a consumer has come, and whether that is ahead of the number at which its row was written, as after a restore, also when this cluster has
-- come further since.
consumer.transaction::text as transaction, to_json(consumer.timestamp at time zone 'UTC')::text as timestamp, consumer.id::text as id,
       consumer.known::text as known,
       (age(consumer.xmin) <= 2147483646
        and consumer.transaction::text::bigint > pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                                                 - (age(consumer.xmin)::bigint - age(pg_snapshot_xmax(pg_current_snapshot())::xid)))::text as is_foreign
