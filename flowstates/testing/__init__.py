"""What a service's tests need: fixtures (`pytest_plugins = ["flowstates.testing.plugin"]`), and histories as short texts."""

from flowstates.testing.databases import Databases, Schema
from flowstates.testing.histories import assert_history, history

__all__ = ["Databases", "Schema", "assert_history", "history"]
