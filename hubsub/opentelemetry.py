"""Traces and metrics of a hub by OpenTelemetry: `instrument(hub)`. Needs the extra `otel`.

Names and attributes are those of the semantic conventions for messaging.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ._core.callables import checked_function
from ._core.checks import headers_of
from ._core.confirming import publish_until_finished
from ._core.handles import Handle, Removal
from ._core.routes import Route
from ._core.wrapping import Call
from .errors import MissingDriver
from .event import Event, Meta
from .hub import Hub
from .key import NAMESPACE, STAR, Key, Patterns, as_patterns, is_subset

try:
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
except ImportError:
    raise MissingDriver("hubsub.opentelemetry", "opentelemetry-api", "otel") from None

__all__ = ["Instrumentation", "context_of", "instrument", "links_to"]

SYSTEM = "hubsub"

# The upper bounds that the conventions advise for durations, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

# Returns a name for all keys of a kind, or None if there is none.
Template = Callable[[Key[Any]], str | None]


def instrument(
    hub: Hub,
    patterns: Patterns = STAR,
    *,
    template: Template | None = None,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Instrumentation:
    """Record what the hub publishes, and every call of its listeners and responders, until `remove()`.

    Each publish is a span, and its context travels with the message in the headers `traceparent` and `tracestate` (by
    default), through queues, bridges and to clients of `hubsub.web`. A call of a listener is a span whose parent is
    that publish, wherever it was; for an async listener another span shows how long the message was on its way. The
    hub's own messages are left out.

    Args:
        hub: The hub.
        patterns: Only messages that match one of them: one pattern, or a list, set or frozenset.
        template: Called with a key; returns the name of all keys of that kind, such as "user/{id}", for the names of
            spans and for metrics, or None. Without one, spans of listeners are named by the listener's pattern, and
            those of publishers by the key.
        tracer_provider: By default the global one.
        meter_provider: By default the global one.

    Returns:
        A handle; `remove()` ends it.

    Raises:
        ValueError: The hub is instrumented already.
        InvalidFunction: `template` is no plain function of a key.
        InvalidKey: A pattern cannot be subscribed to.
    """
    hub._life.check_thread()
    if isinstance(hub, _Instrumented):
        raise ValueError(f"{hub!r} must not be instrumented twice: first remove() the handle that instrument returned")
    if template is not None:
        checked_function(template, "template", "key")
    return Instrumentation(hub, as_patterns(patterns), template, tracer_provider, meter_provider)


def context_of(event: Event[Any], base: Context | None = None) -> Context:
    """Return the context of the publish of an event, for a span of your own around handling it.

    For consumers, which read and are not called: `with tracer.start_as_current_span("store", context_of(event)):`.

    Args:
        event: What was read.
        base: The context to put it in, by default an empty one; it is returned if the event carries none.
    """
    context = Context() if base is None else base
    meta = event.meta
    return context if meta is None else propagate.extract(meta.headers, context, _GETTER)


def links_to(events: Iterable[Any]) -> list[Link]:
    """Return a link to the publish of each event that carries one, for a span of your own around handling a batch.

    What is no event, such as a `Gap` in a batch, has none.
    """
    contexts = [_span_context(event) for event in events if isinstance(event, Event)]
    return [Link(context) for context in contexts if context.is_valid]


class Instrumentation(Handle):
    """What `instrument` returned. `remove()` ends it, as leaving it as a context manager does."""

    def __init__(
        self,
        hub: Hub,
        patterns: Sequence[tuple[str, ...]],
        template: Template | None,
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
    ) -> None:
        from . import __version__

        self._hub = hub
        self._patterns = patterns
        self._is_everything = (STAR,) in patterns
        self._template = template
        self._tracer = trace.get_tracer("hubsub", __version__, tracer_provider)
        self._figures = _Figures(metrics.get_meter("hubsub", __version__, meter_provider))
        self.closed = False
        """True once it was removed."""
        self._wrappings = [
            hub.wrap(list(patterns), self._process),
            hub.wrap(list(patterns), self._process_async),
        ]
        # A hub of another class: so the class of others need not ask whether it is instrumented.
        self._class = type(hub)
        hub.__dict__["_instrumentation"] = self
        bases = (_Instrumented,) if self._class is Hub else (_Instrumented, self._class)
        hub.__class__ = type(self._class.__name__, bases, {"__module__": self._class.__module__})

    def remove(self) -> Removal:
        """Record nothing more; spans that have begun end as usual. Removing twice is safe."""
        if not self.closed:
            self._hub._life.check_thread()
            self.closed = True
            self._hub.__class__ = self._class
            del self._hub.__dict__["_instrumentation"]
            for wrapping in self._wrappings:
                wrapping.remove()
        return Removal()

    def _end(self) -> Removal:
        return self.remove()

    def __repr__(self) -> str:
        return f"<Instrumentation of {self._hub!r}{' removed' if self.closed else ''}>"

    def concerns(self, key: Any) -> bool:
        """True if messages of an exact key are recorded."""
        if not isinstance(key, tuple) or not key or key[0] == NAMESPACE:
            return False
        return self._is_everything or any(is_subset(key, pattern) for pattern in self._patterns)

    # Publishing

    @contextmanager
    def publishing(self, event: Event[Any]) -> Iterator[_Publish]:
        """Record a publish of an event; yields what is to be published instead, with the context of the span."""
        meta = event.meta or Meta()
        operation = "publish" if meta.reply_to is None else "request"
        attributes, figures = self._attributes(event, operation, "send", None)
        created = _span_context_of(meta)
        context, links = None, []
        if created.is_valid:
            # It was created elsewhere, and its listeners shall be children of whoever created it.
            links = [Link(created)]
            if not trace.get_current_span().get_span_context().is_valid:
                context = propagate.extract(meta.headers, getter=_GETTER)
        name = f"{operation} {_destination(attributes)}"
        began = time.perf_counter()
        with self._tracer.start_as_current_span(
            name, context, SpanKind.PRODUCER, attributes, links, record_exception=False, set_status_on_exception=False
        ) as span:
            headers = dict(meta.headers)
            if not created.is_valid:
                propagate.inject(headers)
            # The time tells the reader how long the message was on its way.
            meta = meta._replace(headers=headers, time=time.time() if meta.time is None else meta.time)
            publish = _Publish(Event(event[0], event[1], meta))
            try:
                yield publish
            except BaseException as error:
                _fail(span, error, figures)
                raise
            finally:
                if publish.reached is not None:
                    span.set_attribute("hubsub.subscriptions", publish.reached)
                self._figures.sent.add(1, figures)
                self._figures.operation.record(time.perf_counter() - began, figures)

    # Calling listeners

    def _process(self, call: Call[Any]) -> Any:
        if not self.concerns(call.key):
            return call()
        with self._processing(call, None):
            return call()

    async def _process_async(self, call: Call[Any]) -> Any:
        if not self.concerns(call.key):
            return await call()
        with self._processing(call, Context()):
            return await call()

    @contextmanager
    def _processing(self, call: Call[Any], base: Context | None) -> Iterator[None]:
        """Record a call, in a context other than the current one for an async listener, which has that of its task."""
        event, listener = call.event, call.listener
        events = event[1] if _is_batch(event) else None
        meta = event.meta
        attributes, figures = self._attributes(event, "process", "process", listener)
        attributes["messaging.destination.subscription.name"] = _name_of(listener)
        context = base
        links: list[Link] = []
        if events is not None:
            attributes["messaging.batch.message_count"] = len(events)
            links = links_to(events)
        elif meta is not None and meta.replayed:
            links = links_to([event])  # its trace may have ended long ago
        elif meta is not None:
            context = propagate.extract(meta.headers, base, _GETTER)
        attempt = _attempt(call)
        if attempt > 1:
            attributes["hubsub.attempt"] = attempt
        elif base is not None and events is None and meta is not None and meta.time and not meta.replayed:
            self._delivered(event, meta.time, context, attributes)
        name = f"process {_destination(attributes)}"
        began = time.perf_counter()
        with self._tracer.start_as_current_span(
            name, context, SpanKind.CONSUMER, attributes, links, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                _fail(span, error, figures)
                raise
            finally:
                self._figures.consumed.add(1 if events is None else len(events), figures)
                self._figures.process.record(time.perf_counter() - began, figures)

    def _delivered(self, event: Event[Any], since: float, context: Context | None, like: Mapping[str, Any]) -> None:
        """Record how long a message was on its way, since it was published; it is about to be handled."""
        attributes = {**like, "messaging.operation.name": "deliver", "messaging.operation.type": "receive"}
        now = time.time_ns()
        began = min(int(since * 1e9), now)  # the clock of another machine may be ahead
        name = f"deliver {_destination(attributes)}"
        span = self._tracer.start_span(name, context, SpanKind.CONSUMER, attributes, start_time=began)
        span.end(now)

    # Attributes

    def _attributes(
        self, event: Event[Any], operation: str, kind: str, listener: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the attributes of a span, and those of figures, which are few values each."""
        key, meta = event[0], event.meta
        exact = key if type(key) is Key else Key.create_from(key)
        figures: dict[str, Any] = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": operation,
            "messaging.operation.type": kind,
        }
        template = None if self._template is None else self._template(exact)
        if template is None and listener is not None:
            template = next((each.text for each in listener.patterns if is_subset(exact, each)), None)
        if template is not None:
            figures["messaging.destination.template"] = template
        attributes = {**figures, "messaging.destination.name": exact.text, "messaging.client.id": self._hub.name}
        if meta is not None and meta.id is not None:
            attributes["messaging.message.id"] = meta.id
        if meta is not None and meta.correlation is not None:
            attributes["messaging.message.conversation_id"] = meta.correlation
        return attributes, figures


class _Publish:
    """A publish that is being recorded."""

    __slots__ = ("event", "reached")

    def __init__(self, event: Event[Any]) -> None:
        self.event = event
        self.reached: int | None = None  # subscriptions


class _Figures:
    """The instruments that the conventions name."""

    def __init__(self, meter: metrics.Meter) -> None:
        self.sent = meter.create_counter(
            "messaging.client.sent.messages",
            "{message}",
            "Number of messages a producer has sent, or tried to.",
        )
        self.consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to listeners.",
        )
        self.operation = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of an operation of a producer.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.process = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of the processing of messages.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )


class _Instrumented(Hub):
    """The class of a hub while it is instrumented."""

    _instrumentation: Instrumentation

    def publish(self, key: Any, message: Any = None) -> int:
        exact = self._route_of(key).key
        if not self._instrumentation.concerns(exact):
            return super().publish(key, message)
        return self.publish_event(Event(exact, message))

    def _publish_first(self, route: Route, message: Any) -> int:
        # What `publish_wait` calls where no route is cached.
        if not self._instrumentation.concerns(route.key):
            return super()._publish_first(route, message)
        return self.publish_event(Event(route.key, message))

    def publish_event(self, event: Event[Any]) -> int:
        if not isinstance(event, Event) or not self._instrumentation.concerns(event[0]):
            return super().publish_event(event)
        with self._instrumentation.publishing(event) as publish:
            publish.reached = super().publish_event(publish.event)
            return publish.reached

    async def publish_confirmed(
        self,
        key: Any,
        message: Any = None,
        timeout: float | None = 30.0,
        *,
        headers: Mapping[str, str] | None = None,
        due: float | None = None,
    ) -> int:
        exact = self._route_of(key).key
        if not self._instrumentation.concerns(exact):
            return await super().publish_confirmed(key, message, timeout, headers=headers, due=due)
        event = Event(exact, message, Meta(headers=headers_of(headers), due=due))
        with self._instrumentation.publishing(event) as publish:
            publish.reached = await publish_until_finished(self, exact, message, publish.event.meta, timeout)
            return publish.reached


class _HeaderGetter(Getter[Mapping[str, str]]):
    """Reads headers of a message; those of a CloudEvent's extension for tracing count, too."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(key) or carrier.get(f"ce_{key}")
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


_GETTER = _HeaderGetter()

# The call that was recorded last in this task: retries call with the same event again.
_last_call: ContextVar[tuple[Any, Any, int] | None] = ContextVar("hubsub_last_call", default=None)


def _attempt(call: Call[Any]) -> int:
    """Return the number of this attempt to call a listener with an event, from 1."""
    last = _last_call.get()
    is_again = last is not None and last[0] is call.event and last[1] is call.listener
    attempt = last[2] + 1 if last is not None and is_again else 1
    _last_call.set((call.event, call.listener, attempt))
    return attempt


def _is_batch(event: Event[Any]) -> bool:
    """True if it stands for several events, which a listener gets at once."""
    batch = event[1]
    return type(batch) in (tuple, list) and bool(batch) and all(isinstance(each, Event) for each in batch)


def _span_context(event: Event[Any]) -> trace.SpanContext:
    """Return the span context that an event carries, which may be invalid."""
    return _span_context_of(event.meta or Meta())


def _span_context_of(meta: Meta) -> trace.SpanContext:
    return trace.get_current_span(propagate.extract(meta.headers, Context(), _GETTER)).get_span_context()


def _destination(attributes: Mapping[str, Any]) -> str:
    """Return the name by which spans of a destination are grouped."""
    template = attributes.get("messaging.destination.template")
    return str(attributes["messaging.destination.name"] if template is None else template)


def _name_of(listener: Any) -> str:
    function = listener.function
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _fail(span: Span, error: BaseException, figures: dict[str, Any]) -> None:
    """Mark a span and its figures as failed; a cancelled call is none."""
    kind = type(error).__qualname__
    if isinstance(error, Exception):
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, str(error)[:200]))
    span.set_attribute("error.type", kind)
    figures["error.type"] = kind
