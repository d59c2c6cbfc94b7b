-- A database from a template. Names are filled in as quoted identifiers.
create database /* slot: name */ name /* end */ template /* slot: template */ template0 /* end */;
