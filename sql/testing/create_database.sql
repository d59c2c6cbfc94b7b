-- A database from a template. Names are of our making, and what PostgreSQL takes as they are.
create database /* slot: name */ name /* end */ template /* slot: template */ template0 /* end */;
