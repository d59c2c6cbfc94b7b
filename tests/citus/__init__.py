"""Tests on the Citus that FLOWSTATES_TEST_CITUS names (`make test-citus`): no registry has it, so they run on one that is there already."""
