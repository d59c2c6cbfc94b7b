"""A service that does jobs for customers. A job is a run, whose states flowstates keeps."""
