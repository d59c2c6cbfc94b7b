-- Of several that make a template at once one gets its name.
alter database /* slot: name */ name /* end */ rename to /* slot: template */ template /* end */;
