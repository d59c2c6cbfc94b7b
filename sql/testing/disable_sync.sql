-- For a server whose data nobody keeps.
alter system set fsync = off;
