-- join_transaction() -> one row
-- Nothing: SQLAlchemy begins its transaction before the first statement that goes through it, and this is one.
select 1 as nothing;
