"""The figures of the README: `make bench`, or `python -m benchmarks`. shared.py measures, each other file asks its own questions."""
