"""The figures of docs/costs.md: `make bench`, or `python -m benchmarks`. shared.py measures, each other file asks its own questions."""
