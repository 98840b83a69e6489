"""Figures for Prometheus, read by its own parser and by promtool."""

import asyncio
import gc
import json
import re
import subprocess
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from test_queue import settled

from brokers.fixtures import require_program
from hubsub import Bridge, Hub, Key, Overflow
from hubsub.bridges import Health
from hubsub.hub import Stats
from hubsub.prometheus import BRIDGE, HUB, SUBSCRIBER, HubCollector

DASHBOARD = Path(__file__).resolve().parent.parent / "docs" / "assets" / "grafana.json"


def registry_of(*hubs: Hub, **options: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(HubCollector(*hubs, **options))
    return registry


def samples_of(registry: CollectorRegistry) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return what Prometheus reads, by the name of the sample and the values of its labels, by their names."""
    text = generate_latest(registry).decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def busy_hub() -> Hub:
    """Return a hub of which every figure differs."""
    hub = Hub(name="shop")
    hub.retain(("order", "*"), 5)
    hub.add_listener(("order", "*"), confirm)
    hub.add_listener(("order", "*"), refuse)
    hub.subscribe(("order", "*"), maxsize=2, overflow=Overflow.DROP_OLDEST)
    for number in range(5):
        hub.publish(("order", str(number % 2)), number)
    return hub


def confirm(key: Key[Any], message: Any) -> None: ...


def refuse(key: Key[Any], message: Any) -> None:
    raise ValueError("no")


def test_a_scrape_has_the_figures_of_the_hub_and_of_its_subscribers() -> None:
    hub = busy_hub()
    samples = samples_of(registry_of(hub))
    stats = hub.stats()
    assert samples["hubsub_up", ("shop",)] == 1
    assert samples["hubsub_published_total", ("shop",)] == stats.published == 5
    assert samples["hubsub_routed_total", ("shop",)] == stats.routed == 15
    assert samples["hubsub_failed_total", ("shop",)] == 5
    assert samples["hubsub_retained_keys", ("shop",)] == 2
    assert samples["hubsub_subscriber_failed_total", ("shop", "listener", "refuse")] == 5
    assert samples["hubsub_subscriber_delivered_total", ("shop", "listener", "confirm")] == 5
    assert samples["hubsub_subscriber_dropped_total", ("shop", "subscription", "")] == 3
    assert samples["hubsub_subscriber_pending", ("shop", "subscription", "")] == 2


async def test_a_scrape_has_the_health_of_each_bridge() -> None:
    async with (
        Hub(name="one") as hub,
        Hub(name="two") as other,
        Bridge(hub, "memory://prometheus", both=["a"]) as bridge,
        Bridge(other, "memory://prometheus", both=["a"]),
        Bridge(hub, "memory://another", outgoing=["b"]),
    ):
        hub.publish("a", 1)
        await bridge.flush()
        samples = samples_of(registry_of(hub, other))
        assert samples["hubsub_bridge_sent_total", ("Memory", "one")] == 1
        assert samples["hubsub_bridge_state", ("Memory", "one", "up")] == 1
        assert samples["hubsub_bridge_state", ("Memory", "one", "down")] == 0
        assert samples["hubsub_bridge_sent_total", ("Memory 2", "one")] == 0
        assert ("hubsub_bridge_sent_total", ("Memory", "two")) in samples


def test_every_figure_of_a_hub_and_of_a_bridge_is_exported() -> None:
    assert {figure.attribute for figure in HUB} == set(Stats._fields) - {"time"}
    assert {figure.attribute for figure in BRIDGE} == set(Health._fields) - {"state", "last_error"}
    metrics = [figure.metric for figure in (*HUB, *SUBSCRIBER, *BRIDGE)]
    assert len(set(metrics)) == len(metrics)


def test_the_official_parser_of_openmetrics_accepts_a_scrape() -> None:
    text = openmetrics.generate_latest(registry_of(busy_hub())).decode()
    families = {family.name: family for family in openmetrics_families(text)}
    assert families["hubsub_published"].type == "counter"
    assert families["hubsub_subscriber_pending"].type == "gauge"


def test_promtool_accepts_a_scrape() -> None:
    require_program("promtool", "prometheus")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(registry_of(busy_hub())), capture_output=True
    )
    assert (checked.returncode, checked.stderr.decode()) == (0, "")


def test_keys_are_no_labels_and_names_are_few() -> None:
    hub = Hub()
    for number in range(200):

        def listen(key: Key[Any], message: Any) -> None: ...

        listen.__qualname__ = f"listen_{number}"
        hub.add_listener(("secret", f"user{number}"), listen)
        hub.publish(("secret", f"user{number}"), number)
    registry = registry_of(hub, most=50)
    for _ in range(2):
        samples = samples_of(registry)
        delivered = {
            labels[2]: value for (name, labels), value in samples.items() if name == "hubsub_subscriber_delivered_total"
        }
        assert len(delivered) == 51
        assert (delivered["listen_7"], delivered["other"], sum(delivered.values())) == (1, 150, 200)
    text = generate_latest(registry).decode()
    assert "secret" not in text
    assert "user" not in text


def test_counters_go_on_when_a_listener_is_gone() -> None:
    hub = Hub()
    registry = registry_of(hub)
    name = ("hubsub_subscriber_delivered_total", ("hub", "listener", "confirm"))
    for number in range(1, 4):
        with hub.add_listener("a", confirm):
            hub.publish("a")
            assert samples_of(registry)[name] == number
        assert samples_of(registry)[name] == number
    assert samples_of(registry)["hubsub_subscriber_pending", ("hub", "listener", "confirm")] == 0


def test_a_collector_keeps_no_listener_alive() -> None:
    class Listen:
        def __call__(self, key: Key[Any], message: Any) -> None: ...

    hub = Hub()
    registry = registry_of(hub)
    listen = Listen()
    known = weakref.ref(listen)
    hub.add_listener("a", listen)
    assert samples_of(registry)["hubsub_subscriptions", ("hub",)] == 1
    hub.remove_listener(listen)
    del listen
    hub.publish("a")
    gc.collect()
    assert known() is None


async def test_another_thread_may_scrape_while_the_loop_runs(hub: Hub) -> None:
    registry = registry_of(hub)
    await hub.start()
    hub.add_listener("a", confirm)
    hub.publish("a")
    threads: list[int] = []
    stats = hub.stats

    def noted() -> Stats:
        threads.append(threading.get_ident())
        return stats()

    hub.stats = noted  # type: ignore[method-assign]
    samples = await asyncio.to_thread(samples_of, registry)
    assert samples["hubsub_published_total", ("hub",)] == 1
    assert threads == [threading.get_ident()]


async def test_a_loop_that_does_not_answer_is_not_up(hub: Hub) -> None:
    registry = registry_of(hub, timeout=0.01)
    await hub.start()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(samples_of(registry)))
    thread.start()
    while not got:
        time.sleep(0.01)  # noqa: ASYNC251 - a listener that blocks the loop
    thread.join()
    assert got[0]["hubsub_up", ("hub",)] == 0
    assert ("hubsub_published_total", ("hub",)) not in got[0]
    await settled()
    assert samples_of(registry)["hubsub_up", ("hub",)] == 1


def test_hubs_of_the_same_name_and_a_second_collector_are_refused() -> None:
    with pytest.raises(ValueError, match="hubs must have different names, Hub"):
        HubCollector(Hub(), Hub())
    with pytest.raises(ValueError, match="most must be a number of names, at least 1, not 0"):
        HubCollector(Hub(), most=0)
    registry = registry_of(Hub(name="one"))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(HubCollector(Hub(name="two")))


# The dashboard


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_every_query_of_the_dashboard_is_of_metrics_and_labels_that_are_exported() -> None:
    families = {family.name: family for family in HubCollector(Hub()).describe()}
    exported = {f"{name}_total" if family.type == "counter" else name for name, family in families.items()}
    used = set().union(*(re.findall(r"hubsub_\w+", each) for each in expressions()))
    assert used <= exported
    assert len(used) > 20
    labels = {"hub", "kind", "subscriber", "bridge", "state"}
    for expression in expressions():
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert set(grouped.split(", ")) <= labels
    assert set(re.findall(r'state="(\w+)"', " ".join(expressions()))) == {"up"}


def test_promtool_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    require_program("promtool", "prometheus")
    queries = [each.replace("$__rate_interval", "1m").replace("$hub", ".*") for each in expressions()]
    rules = [{"record": f"dashboard:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    checked = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
