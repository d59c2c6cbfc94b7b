-- Who makes databases, and whether they may: what is in a template belongs to who made it.
select rolname::text as name, rolsuper or rolcreatedb as may_create from pg_roles where rolname = current_user;
