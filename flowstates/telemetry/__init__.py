"""Spans of calls, metrics of a pool and traces of runs, for OpenTelemetry. The extra `telemetry` is its API alone.

Nothing here sets up a provider: without one of yours nothing is recorded. Names are those of OpenTelemetry's semantic conventions for database
clients (https://opentelemetry.io/docs/specs/semconv/db/); where these have none, `flowstates.` comes first.
"""

try:
    import opentelemetry.metrics
    import opentelemetry.trace  # noqa: F401
except ModuleNotFoundError as _error:
    _error.add_note("flowstates.telemetry takes an extra: pip install 'flowstates[telemetry]'")
    raise

from flowstates.telemetry.pools import observe_pool
from flowstates.telemetry.spans import instrument, uninstrument
from flowstates.telemetry.traces import export_trace

__all__ = ["export_trace", "instrument", "observe_pool", "uninstrument"]
