-- Nobody connects to it any more: what is connected to cannot be cloned.
alter database /* slot: name */ name /* end */ with allow_connections false;
