-- Always so on our own tables, and not to be asked of others: on Citus's, say, no trigger follows a delete.
transaction is not null
