-- use_schema() -> affected
-- Lets a session find the tables of one schema, and no temporary ones. It is for people to paste before mend_flow_runs.
set search_path = /* slot: schema */ public /* end */, pg_temp;
