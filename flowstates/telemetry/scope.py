"""Who says what is recorded, and by which version of the conventions."""

from flowstates import __version__

NAME = "flowstates"
VERSION: str = __version__
SCHEMA = "https://opentelemetry.io/schemas/1.33.0"
"""The first version in which the names for databases are stable."""
