"""Keeping spans and figures of OpenTelemetry in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hubsub import Hub
from hubsub.opentelemetry import Instrumentation, instrument


class Recorder:
    """Providers that keep everything in memory, and what they have kept."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self._figures = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._figures])
        self.tracer = self.tracer_provider.get_tracer("test")

    def instrument(self, hub: Hub, *arguments: Any, **options: Any) -> Instrumentation:
        return instrument(
            hub, *arguments, tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **options
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        """What has ended, in order."""
        return list(self._spans.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def all(self, start: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.startswith(start)]

    def one(self, start: str) -> ReadableSpan:
        """The only span whose name starts so."""
        [span] = self.all(start)
        return span

    def figures(self) -> dict[str, Any]:
        """The data points of each instrument."""
        data = self._figures.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def clear(self) -> None:
        self._spans.clear()


@contextmanager
def recording() -> Iterator[Recorder]:
    """A recorder, for a test."""
    recorder = Recorder()
    yield recorder
    recorder.tracer_provider.shutdown()
    recorder.meter_provider.shutdown()


def of(span: ReadableSpan) -> tuple[int, int]:
    """The ids of a span, or of its parent."""
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)
