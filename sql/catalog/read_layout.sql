-- read_layout() -> one row
-- Whose the table of states on the search path is; null if there is none. Only our own says which transaction wrote a state, or on Citus has a
-- column `updated` that is computed.
select case when exists (select from pg_attribute
                          where attrelid = to_regclass('flow_run_state') and attname = 'transaction' and not attisdropped) then 'flowstates'
            when exists (select from pg_attribute
                          where attrelid = to_regclass('flow_run_state') and attname = 'updated' and attgenerated <> '') then 'citus'
            when to_regclass('flow_run_state') is not null then 'prefect'
       end as layout;
