-- It goes whoever is still connected to it.
drop database if exists /* slot: name */ name /* end */ with (force);
