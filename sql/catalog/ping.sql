-- ping() -> one row
-- Nothing: before it, as before whatever else goes through it, SQLAlchemy begins its transaction; with it the server ends one that it has begun itself.
select 1 as nothing;
