-- It stays where somebody is connected to it.
drop database if exists /* slot: name */ name /* end */;
