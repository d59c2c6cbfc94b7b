-- Who makes databases: what is in a template belongs to who made it.
select current_user::text as name;
