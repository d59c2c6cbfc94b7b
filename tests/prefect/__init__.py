"""Prefect as the witness: these tests run in an environment that has both Prefect and flowstates (`make test-prefect`)."""
