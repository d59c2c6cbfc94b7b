-- For a server whose data lie in memory: without it the log of many clones grows to a gigabyte.
alter system set max_wal_size = '256MB';
