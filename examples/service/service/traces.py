"""Where spans go."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from flowstates.telemetry import instrument
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter


@contextmanager
def traces(path: Path) -> Generator[None]:
    """Spans as lines of JSON in a file. A service that is deployed has an exporter of OTLP here."""
    provider = TracerProvider(resource=Resource.create({"service.name": "jobs"}))
    with path.open("a") as file:
        exporter = ConsoleSpanExporter(out=file, formatter=lambda span: f"{span.to_json(indent=None)}\n")
        provider.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        instrument()
        try:
            yield
        finally:
            provider.shutdown()
