-- Whoever may create databases may clone it, and it is not dropped by mistake.
alter database /* slot: name */ name /* end */ with is_template true;
