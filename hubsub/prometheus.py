"""Figures of hubs for Prometheus: `REGISTRY.register(HubCollector(hub))`. Extra `prometheus`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from threading import Lock, get_ident
from typing import Any, NamedTuple, TypeVar, get_args

from ._core.checks import count, seconds
from .bridges.relay.health import Health, State
from .describe import name_of_callable
from .errors import MissingDriver
from .hub import Hub, Stats

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError:
    raise MissingDriver("hubsub.prometheus", "prometheus-client", "prometheus") from None

V = TypeVar("V")

OTHER = "other"
"""The label of listeners beyond the first `most` names."""


class _Figure(NamedTuple):
    """A figure that is exported: the attribute that has it, the metric, and what it is."""

    attribute: str
    metric: str
    help: str
    counts: bool = True
    """A counter; else a gauge."""

    def family(self, labels: tuple[str, ...]) -> Any:
        """Return the metric, without samples."""
        kind = CounterMetricFamily if self.counts else GaugeMetricFamily
        return kind(f"hubsub_{self.metric}", self.help, labels=labels)


HUB = (
    _Figure("published", "published", "Messages published."),
    _Figure("routed", "routed", "Messages times the subscriptions that they were routed to."),
    _Figure("failed", "failed", "Calls of listeners that raised."),
    _Figure("subscriptions", "subscriptions", "Subscriptions and listeners registered.", False),
    _Figure("patterns", "patterns", "Different patterns among them.", False),
    _Figure("cached_routes", "cached_routes", "Keys whose route is cached.", False),
    _Figure("cache_hits", "route_cache_hits", "Messages published along a cached route."),
    _Figure("cache_misses", "route_cache_misses", "Routes made."),
    _Figure("retained_keys", "retained_keys", "Keys of which messages are retained.", False),
)

SUBSCRIBER = (
    _Figure("accepted", "subscriber_accepted", "Messages routed to these subscribers, and wanted."),
    _Figure("delivered", "subscriber_delivered", "Messages that they were called with, or have read."),
    _Figure("dropped", "subscriber_dropped", "Messages that they will never get."),
    _Figure("superseded", "subscriber_superseded", "Messages replaced by a newer one before they were read."),
    _Figure("filtered", "subscriber_filtered", "Messages that their where= did not want."),
    _Figure("failed", "subscriber_failed", "Their calls that raised."),
    _Figure("pending", "subscriber_pending", "Messages in their queues.", False),
)

BRIDGE = (
    _Figure("sent", "bridge_sent", "Messages that the broker has accepted."),
    _Figure("received", "bridge_received", "Messages that were delivered to the hub."),
    _Figure("reconnects", "bridge_reconnects", "Connections after the first one."),
    _Figure("gaps", "bridge_gaps", "Gaps that were reported to subscribers."),
    _Figure("echoes", "bridge_echoes", "Own messages that came back and were dropped."),
    _Figure("duplicates", "bridge_duplicates", "Messages that came again and were dropped."),
    _Figure("failures", "bridge_failures", "Attempts that ended with a listener's failure."),
    _Figure("dead_letters", "bridge_dead_letters", "Messages that were given up."),
    _Figure("unclaimed", "bridge_unclaimed", "Messages that nobody was subscribed to."),
    _Figure("undecodable", "bridge_undecodable", "Received messages that could not be decoded."),
    _Figure("unclear", "bridge_unclear", "Messages sent again, which may arrive twice."),
    _Figure("refused", "bridge_refused", "Messages that could not be sent."),
    _Figure("unroutable", "bridge_unroutable", "Messages that no queue of the broker wanted."),
    _Figure("outbox_messages", "bridge_outbox_messages", "Messages that wait to be sent.", False),
    _Figure("outbox_bytes", "bridge_outbox_bytes", "Bytes of those that are encoded already.", False),
    _Figure("oldest_age", "bridge_outbox_oldest_seconds", "Seconds since the oldest of them was encoded.", False),
    _Figure("in_flight", "bridge_in_flight", "Messages that were received and are unfinished.", False),
    _Figure("lag", "bridge_lag", "Messages left at the broker, where it says so.", False),
    _Figure("since", "bridge_state_since_seconds", "When it entered its state, in seconds since the epoch.", False),
    _Figure("last_received", "bridge_last_received_seconds", "When something was received last.", False),
)

_UP = _Figure("", "up", "1 if the hub's event loop answered within the timeout, else 0.", False)
_STATE = _Figure("", "bridge_state", "1 for the state that the bridge is in, 0 for the others.", False)

Group = tuple[str, str]  # the kind of a subscriber, and its name
Counts = tuple[int, ...]


class _Snapshot(NamedTuple):
    """What one hub says at a moment."""

    stats: Stats
    subscribers: list[tuple[int, Group, Counts]]
    """The number of each registration, its group, and its figures in the order of `SUBSCRIBER`."""
    bridges: list[tuple[str, Health]]


class _Groups:
    """Figures of subscribers by group: counters go on where a subscriber is gone, and there are few groups."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[Group, list[int]] = {}  # the figures of those that are gone
        self._last: dict[int, tuple[Group, Counts]] = {}

    def update(self, subscribers: Iterable[tuple[int, Group, Counts]]) -> dict[Group, list[int]]:
        """Return the sums of each group."""
        now = {order: (self._bounded(group), counts) for order, group, counts in subscribers}
        for order, (group, counts) in self._last.items():
            if order not in now:
                self._known[group] = [
                    sum(pair) if figure.counts else 0
                    for figure, *pair in zip(SUBSCRIBER, self._known[group], counts, strict=True)
                ]
        self._last = now
        sums = {group: list(counts) for group, counts in self._known.items()}
        for group, counts in now.values():
            sums[group] = [sum(pair) for pair in zip(sums[group], counts, strict=True)]
        return sums

    def _bounded(self, group: Group) -> Group:
        if group not in self._known and sum(name != OTHER for _, name in self._known) >= self._most:
            group = (group[0], OTHER)
        self._known.setdefault(group, [0] * len(SUBSCRIBER))
        return group


class HubCollector(Collector):
    """Exports the figures of one or more hubs whenever they are scraped; between two scrapes it costs nothing.

    Its labels are few, whatever is published: the name of a hub, the name of a listener's function, the kind of a
    bridge. Keys and patterns are no labels, and subscriptions are added up. It may be scraped by any thread: it reads
    the figures in the thread of each hub's loop.

    Args:
        hubs: The hubs, whose names differ.
        most: The most names of listeners per hub; those beyond them are added up under the name "other".
        timeout: Seconds that the loop of a hub has to answer another thread; if it does not, `hubsub_up` is 0.

    Raises:
        ValueError: Two hubs have the same name, or an option is invalid.
    """

    def __init__(self, *hubs: Hub, most: int = 50, timeout: float = 2.0) -> None:
        names = [hub.name for hub in hubs]
        if len(set(names)) < len(names):
            raise ValueError(f"hubs must have different names, Hub(name=...), not {', '.join(map(repr, names))}")
        most = count(most, "most", "names")
        self._timeout = seconds(timeout, "timeout", zero=False)
        self._hubs = [(hub, _Groups(most)) for hub in hubs]
        self._lock = Lock()  # for the groups: two threads may scrape at the same time

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without samples: a second collector of the same names is refused."""
        return _families().values()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of all hubs."""
        families = _families()
        for hub, groups in self._hubs:
            snapshot = _in_thread_of(hub, partial(_snapshot, hub), self._timeout)
            families["up"].add_metric([hub.name], float(snapshot is not None))
            if snapshot is None:
                continue
            for figure in HUB:
                families[figure.metric].add_metric([hub.name], getattr(snapshot.stats, figure.attribute))
            with self._lock:
                sums = groups.update(snapshot.subscribers)
            for (kind, name), values in sums.items():
                for figure, value in zip(SUBSCRIBER, values, strict=True):
                    families[figure.metric].add_metric([hub.name, kind, name], value)
            for name, health in snapshot.bridges:
                for state in get_args(State):
                    families["bridge_state"].add_metric([hub.name, name, state], float(health.state == state))
                for figure in BRIDGE:
                    value = getattr(health, figure.attribute)
                    if value is not None:
                        families[figure.metric].add_metric([hub.name, name], value)
        return families.values()


def _families() -> dict[str, Any]:
    families = {_UP.metric: _UP.family(("hub",))}
    families |= {figure.metric: figure.family(("hub",)) for figure in HUB}
    families |= {figure.metric: figure.family(("hub", "kind", "subscriber")) for figure in SUBSCRIBER}
    families[_STATE.metric] = _STATE.family(("hub", "bridge", "state"))
    families |= {figure.metric: figure.family(("hub", "bridge")) for figure in BRIDGE}
    return families


def _in_thread_of(hub: Hub, function: Callable[[], V], timeout: float) -> V | None:
    """Call a function in the thread of a hub's loop; return None if that does not answer in time."""
    life = hub._life
    loop = life.loop
    if loop is None or life.thread == get_ident() or not loop.is_running():
        return function()
    result: Future[V] = Future()

    def call() -> None:
        if result.set_running_or_notify_cancel():
            try:
                result.set_result(function())
            except BaseException as error:
                result.set_exception(error)

    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:  # it was closed just now
        return function()
    try:
        return result.result(timeout)
    except TimeoutError:
        result.cancel()
        return None


def _snapshot(hub: Hub) -> _Snapshot:
    subscribers = [
        (each.order, _group(each), tuple(getattr(each, figure.attribute, 0) for figure in SUBSCRIBER))
        for each in hub.subscriptions()
    ]
    return _Snapshot(hub.stats(), subscribers, list(_named(hub.bridges)))


def _group(registration: Any) -> Group:
    function = getattr(registration, "function", None)
    return ("subscription", "") if function is None else ("listener", name_of_callable(function))


def _named(bridges: Iterable[Any]) -> Iterator[tuple[str, Health]]:
    """Yield each bridge with a name of its own: that of its adapter, with a number for the second one and so on."""
    seen: dict[str, int] = {}
    for bridge in bridges:
        if not hasattr(bridge, "health"):
            continue
        name = type(bridge.adapter).__name__.removesuffix("Adapter")
        seen[name] = number = seen.get(name, 0) + 1
        yield name if number == 1 else f"{name} {number}", bridge.health()
