-- As people say it.
show server_version;
