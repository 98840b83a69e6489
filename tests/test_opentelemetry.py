"""Traces and metrics, with the official SDK in memory."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.trace import SpanKind, StatusCode
from spans import Recorder, of, parent_of, recording

import hubsub
from brokers.redis_server import Redis
from hubsub import Call, Event, Hub, InvalidFunction, Key, Meta, Publisher, RemoteError, Retry
from hubsub.opentelemetry import context_of, links_to
from hubsub.testing.conformance import until

pytestmark = pytest.mark.once
Listen = Callable[[Key[Any], Any], None]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


def plain(key: Key[Any], message: Any) -> None: ...


async def awaited(key: Key[Any], message: Any) -> None:
    await asyncio.sleep(0)


async def settle(hub: Hub) -> None:
    await until(lambda: not hub.busy(), "the listeners")


async def test_the_span_of_a_listener_has_its_publisher_as_parent(recorder: Recorder) -> None:
    async with Hub() as hub:
        recorder.instrument(hub)
        hub.add_listener("order", plain)
        hub.add_listener("order", awaited)
        with recorder.tracer.start_as_current_span("request"):
            assert hub.publish("order", 1) == 2
        await settle(hub)
        publish = recorder.one("publish order")
        assert parent_of(publish) == of(recorder.one("request"))
        assert [parent_of(span) for span in recorder.all("process")] == [of(publish)] * 2
        assert [parent_of(span) for span in recorder.all("deliver")] == [of(publish)]  # of the async one


OPTIONS: list[Any] = [{}, {"concurrency": 2}, {"retry": Retry(2, 0)}, {"context": "publisher"}, {"event": True}]


@pytest.mark.parametrize("options", OPTIONS)
async def test_each_message_of_a_queue_has_the_context_of_its_own_publish(recorder: Recorder, options: Any) -> None:
    async def listen(*arguments: Any) -> None:
        await asyncio.sleep(0)

    async with Hub() as hub:
        with recorder.tracer.start_as_current_span("registration"):
            hub.add_listener(("order", "+"), listen, **options)
        recorder.instrument(hub)
        for number in range(3):
            hub.publish(("order", str(number)), number)
        await settle(hub)
        for number in range(3):
            [process] = [
                span
                for span in recorder.all("process")
                if (span.attributes or {})["messaging.destination.name"] == f"order/{number}"
            ]
            publish = recorder.one(f"publish order/{number}")
            assert parent_of(process) == of(publish)
            assert parent_of(publish) is None


async def test_spans_started_in_a_listener_are_children_of_its_span_and_its_publishes_too(recorder: Recorder) -> None:
    async with Hub() as hub:

        async def listen(key: Key[Any], message: Any) -> None:
            await asyncio.sleep(0)
            with recorder.tracer.start_as_current_span("query"):
                hub.publish("stored", message)

        recorder.instrument(hub)
        hub.add_listener("order", listen)
        hub.add_listener("stored", plain)
        hub.publish("order", 1)
        await settle(hub)
        assert parent_of(recorder.one("query")) == of(recorder.one("process order"))
        assert parent_of(recorder.one("publish stored")) == of(recorder.one("query"))
        assert len({of(span)[0] for span in recorder.spans}) == 1


async def test_every_way_of_publishing_is_recorded_once(recorder: Recorder) -> None:
    async with Hub() as hub:
        recorder.instrument(hub)
        hub.add_listener(("a", "*"), plain)
        hub.publish(("a", "1"))
        hub.publish_many([(("a", "2"), 0), (("a", "2"), 0)])
        hub.publish_event(Event(Key("a", "3"), 0))
        hub.publish_with_headers(("a", "4"), 0, {"mine": "kept"})
        await hub.publish_wait(("a", "5"))
        await hub.publish_wait(("a", "5"))
        await hub.publish_confirmed(("a", "6"), headers={"mine": "kept"})
        await asyncio.wrap_future(hub.publish_threadsafe(("a", "7")))
        Publisher(hub, "a").publish("8")
        names = recorder.names
        assert [names.count(f"publish a/{number}") for number in range(1, 9)] == [1, 2, 1, 1, 2, 1, 1, 1]
        publishes = {of(span) for span in recorder.all("publish")}
        assert {parent_of(span) for span in recorder.all("process")} == publishes
        assert {(span.attributes or {})["hubsub.subscriptions"] for span in recorder.all("publish")} == {1}


async def test_a_publish_wait_into_a_full_queue_is_recorded_once_there_is_room(recorder: Recorder) -> None:
    async with Hub() as hub:
        recorder.instrument(hub)
        subscription = hub.subscribe("a", maxsize=1)
        await hub.publish_wait("a", 1)
        waiting = asyncio.create_task(hub.publish_wait("a", 2))
        await asyncio.sleep(0)
        assert recorder.names == ["publish a"]
        await subscription.consume()
        await waiting
        assert recorder.names == ["publish a"] * 2


async def test_headers_of_the_publisher_travel_with_those_of_the_trace(recorder: Recorder) -> None:
    async with Hub() as hub:
        recorder.instrument(hub)
        subscription = hub.subscribe("a")
        token = context.attach(baggage.set_baggage("user", "7"))
        try:
            hub.publish_with_headers("a", 1, {"mine": "kept"})
        finally:
            context.detach(token)
        event = await subscription.consume()
        assert event.meta is not None
        assert event.meta.headers["mine"] == "kept"
        assert event.meta.headers["traceparent"].split("-")[2] == f"{of(recorder.one('publish'))[1]:016x}"
        assert event.meta.headers["baggage"] == "user=7"


async def test_spans_and_attributes_are_named_as_the_conventions_want(recorder: Recorder) -> None:
    async with Hub(name="shop") as hub:
        recorder.instrument(hub)
        hub.add_listener(("order", "+"), awaited)
        hub.publish_event(Event(Key("order", "7"), 1, Meta(id="m1")))
        await settle(hub)
        publish, deliver, process = recorder.spans
        common = {
            "messaging.system": "hubsub",
            "messaging.destination.name": "order/7",
            "messaging.client.id": "shop",
            "messaging.message.id": "m1",
        }
        of_listener = {
            "messaging.destination.template": "order/+",
            "messaging.destination.subscription.name": "awaited",
        }
        assert (publish.name, publish.kind) == ("publish order/7", SpanKind.PRODUCER)
        assert publish.attributes == common | {
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "hubsub.subscriptions": 1,
        }
        assert (process.name, process.kind) == ("process order/+", SpanKind.CONSUMER)
        assert process.attributes == common | of_listener | {
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
        }
        assert (deliver.name, deliver.kind) == ("deliver order/+", SpanKind.CONSUMER)
        assert deliver.attributes == common | of_listener | {
            "messaging.operation.name": "deliver",
            "messaging.operation.type": "receive",
        }
        assert publish.instrumentation_scope is not None
        assert publish.instrumentation_scope.name == "hubsub"


async def test_the_span_of_the_delivery_lasts_from_the_publish_to_the_call(recorder: Recorder) -> None:
    async with Hub() as hub:
        recorder.instrument(hub)
        hub.add_listener("a", awaited)
        hub.publish("a")
        await settle(hub)
        publish, deliver, process = recorder.spans
        assert None not in (publish.start_time, deliver.start_time, deliver.end_time, process.start_time)
        # The clock of the time in the metadata counts microseconds.
        assert (publish.start_time or 0) // 1000 - 1 <= (deliver.start_time or 0) // 1000
        assert (deliver.start_time or 0) <= (deliver.end_time or 0) <= (process.start_time or 0)


async def test_a_template_names_keys_of_a_kind(recorder: Recorder) -> None:
    async with Hub() as hub:
        recorder.instrument(hub, template=lambda key: "user/{id}" if key[0] == "user" else None)
        hub.add_listener("*", plain)
        hub.publish(("user", "7"))
        hub.publish(("order", "8"))
        assert recorder.names == ["process user/{id}", "publish user/{id}", "process *", "publish order/8"]


async def test_a_failing_listener_has_a_failed_span_with_its_error(recorder: Recorder) -> None:
    async with Hub(on_error=lambda failure: None) as hub:

        def fail(key: Key[Any], message: Any) -> None:
            raise KeyError("gone")

        recorder.instrument(hub)
        hub.add_listener("a", fail)
        hub.publish("a")
        process = recorder.one("process")
        assert process.status.status_code is StatusCode.ERROR
        assert (process.attributes or {})["error.type"] == "KeyError"
        assert [event.name for event in process.events] == ["exception"]
        assert recorder.one("publish").status.status_code is StatusCode.UNSET


async def test_each_attempt_is_a_span_and_the_message_was_delivered_once(recorder: Recorder) -> None:
    async with Hub(on_error=lambda failure: None) as hub:

        async def fail(key: Key[Any], message: Any) -> None:
            raise ValueError

        recorder.instrument(hub)
        hub.add_listener("a", fail, retry=Retry(3, 0))
        hub.publish("a")
        await settle(hub)
        attempts = [(span.attributes or {}).get("hubsub.attempt", 1) for span in recorder.all("process")]
        assert attempts == [1, 2, 3]
        assert len(recorder.all("deliver")) == 1
        assert {parent_of(span) for span in recorder.all("process")} == {of(recorder.one("publish"))}


async def test_a_responders_span_is_a_child_of_the_request(recorder: Recorder) -> None:
    async with Hub() as hub:
        recorder.instrument(hub)

        async def answer(key: Key[Any], message: Any) -> Any:
            if message is None:
                raise ValueError("no")
            return message

        hub.respond("ask", answer)
        with recorder.tracer.start_as_current_span("caller"):
            assert await hub.request("ask", 7) == 7
        request, process = recorder.one("request ask"), recorder.one("process ask")
        assert parent_of(request) == of(recorder.one("caller"))
        assert parent_of(process) == of(request)
        conversation = (request.attributes or {})["messaging.message.conversation_id"]
        assert (process.attributes or {})["messaging.message.conversation_id"] == conversation
        recorder.clear()
        with pytest.raises(RemoteError):
            await hub.request("ask", None)
        assert (recorder.one("process").attributes or {})["error.type"] == "ValueError"


async def test_figures_are_those_of_the_conventions_with_few_values_of_each_attribute(recorder: Recorder) -> None:
    async with Hub(on_error=lambda failure: None) as hub:
        recorder.instrument(hub)

        def listen(key: Key[Any], message: Any) -> None:
            if message == 3:
                raise ValueError

        hub.add_listener(("a", "+"), listen)
        for number in range(1, 4):
            hub.publish(("a", str(number)), number)
        figures = recorder.figures()
        [sent] = figures["messaging.client.sent.messages"]
        assert sent.value == 3
        assert dict(sent.attributes) == {
            "messaging.system": "hubsub",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
        }
        [operation] = figures["messaging.client.operation.duration"]
        assert (operation.count, operation.explicit_bounds[0]) == (3, 0.005)
        consumed = {
            point.attributes.get("error.type"): point.value for point in figures["messaging.client.consumed.messages"]
        }
        assert consumed == {None: 2, "ValueError": 1}
        durations = figures["messaging.process.duration"]
        assert {point.attributes["messaging.destination.template"] for point in durations} == {"a/+"}
        assert sum(point.count for point in durations) == 3


async def test_only_what_matches_the_patterns_is_recorded_and_nothing_of_the_hubs_own(recorder: Recorder) -> None:
    async with Hub() as hub:
        recorder.instrument(hub, [("a", "*"), "b"])
        hub.add_listener("*", plain)
        hub.add_listener("*", awaited)
        for key in (("a", "x"), ("b",), ("c",)):
            hub.publish(key)
            await hub.publish_wait(key)
            await hub.publish_confirmed(key)
        await settle(hub)
        assert {span.name for span in recorder.all("publish")} == {"publish a/x", "publish b"}
        assert {(span.attributes or {})["messaging.destination.name"] for span in recorder.spans} == {"a/x", "b"}


async def test_a_batch_has_links_to_the_publish_of_each_message(recorder: Recorder) -> None:
    async with Hub() as hub:
        recorder.instrument(hub)
        subscription = hub.subscribe("a")
        hub.publish_many([("a", 1), ("a", 2)])
        batch = await subscription.get_batch(10)
        with recorder.tracer.start_as_current_span("store", links=links_to([*batch, "no event"])):
            pass
        publishes = [of(span) for span in recorder.all("publish")]
        store = recorder.one("store")
        assert [(link.context.trace_id, link.context.span_id) for link in store.links] == publishes


async def test_a_call_with_a_batch_has_links_and_counts_its_messages(recorder: Recorder) -> None:
    async with Hub() as hub:

        async def store(batch: list[Event[Any]]) -> None:
            await asyncio.sleep(0)

        recorder.instrument(hub)
        hub.add_listener("a", store, batch=(3, 10.0))
        for number in range(3):
            hub.publish("a", number)
        await settle(hub)
        process = recorder.one("process a")
        publishes = [of(span) for span in recorder.all("publish")]
        assert [(link.context.trace_id, link.context.span_id) for link in process.links] == publishes
        assert parent_of(process) is None
        assert (process.attributes or {})["messaging.batch.message_count"] == 3
        [consumed] = recorder.figures()["messaging.client.consumed.messages"]
        assert consumed.value == 3


async def test_what_a_consumer_reads_carries_the_context_of_its_publish(recorder: Recorder) -> None:
    async with Hub() as hub:
        subscription = hub.subscribe("a")
        hub.publish("a", "before")
        recorder.instrument(hub)
        hub.publish("a", "after")
        for name in ("orphan", "child"):
            with recorder.tracer.start_as_current_span(name, context_of(await subscription.consume())):
                pass
        assert parent_of(recorder.one("orphan")) is None
        assert parent_of(recorder.one("child")) == of(recorder.one("publish"))


async def test_a_replayed_message_is_linked_and_no_child(recorder: Recorder) -> None:
    async with Hub() as hub:
        hub.retain("a")
        recorder.instrument(hub)
        hub.publish("a", 1)
        hub.add_listener("a", awaited, history=1)
        await settle(hub)
        process = recorder.one("process")
        assert parent_of(process) is None
        assert [link.context.span_id for link in process.links] == [of(recorder.one("publish"))[1]]
        assert not recorder.all("deliver")


@pytest.mark.parametrize("header", ["traceparent", "ce_traceparent"])
async def test_a_message_that_was_created_elsewhere_keeps_its_context(recorder: Recorder, header: str) -> None:
    async with Hub() as hub:
        recorder.instrument(hub)
        hub.add_listener("a", plain)
        theirs = (int("1" * 32, 16), int("2" * 16, 16))
        headers = {header: f"00-{'1' * 32}-{'2' * 16}-01"}
        hub.publish_with_headers("a", 1, headers)
        assert parent_of(recorder.one("publish")) == theirs
        assert parent_of(recorder.one("process")) == theirs
        recorder.clear()
        with recorder.tracer.start_as_current_span("here"):
            hub.publish_with_headers("a", 1, headers)
        publish = recorder.one("publish")
        assert parent_of(publish) == of(recorder.one("here"))
        assert [(link.context.trace_id, link.context.span_id) for link in publish.links] == [theirs]
        assert parent_of(recorder.one("process")) == theirs


async def test_removed_it_leaves_a_hub_as_it_was(recorder: Recorder) -> None:
    class Mine(Hub):
        def publish_twice(self, key: str) -> int:
            return self.publish(key) + self.publish(key)

    async with Mine() as hub:
        listener = hub.add_listener("a", plain)
        handle = recorder.instrument(hub)
        assert isinstance(hub, Mine)
        assert hub.publish_twice("a") == 2
        assert len(recorder.all("publish")) == 2
        recorder.clear()
        handle.remove()
        handle.remove()
        assert handle.closed
        assert type(hub) is Mine
        assert "_instrumentation" not in vars(hub)
        assert listener.deliver == plain
        hub.publish("a")
        assert recorder.spans == []
        with recorder.instrument(hub):
            hub.publish("a")
        assert len(recorder.all("publish")) == 1


def test_a_hub_is_instrumented_once(recorder: Recorder) -> None:
    hub = Hub()
    recorder.instrument(hub)
    with pytest.raises(ValueError, match="must not be instrumented twice"):
        recorder.instrument(hub)
    with pytest.raises(InvalidFunction, match="template must be a function of key"):
        recorder.instrument(Hub(), template=lambda: None)


def test_listeners_that_publish_in_a_circle_end_on_an_instrumented_hub_too(recorder: Recorder) -> None:
    failures: list[Any] = []
    hub = Hub(on_error=failures.append)
    hub.add_listener("a", lambda key, message: hub.publish("b"))
    hub.add_listener("b", lambda key, message: hub.publish("a"))
    recorder.instrument(hub)
    hub.publish("a")
    assert failures


async def test_other_wrappers_stand_around_it_in_the_order_in_which_they_were_added(recorder: Recorder) -> None:
    async with Hub() as hub:

        def outside(call: Call[Any]) -> Any:
            with recorder.tracer.start_as_current_span("outside"):
                return call()

        def inside(call: Call[Any]) -> Any:
            with recorder.tracer.start_as_current_span("inside"):
                return call()

        hub.wrap("a", outside)
        recorder.instrument(hub)
        hub.wrap("a", inside)
        hub.add_listener("a", plain)
        hub.publish("a")
        assert recorder.names == ["inside", "process a", "outside", "publish a"]
        assert parent_of(recorder.one("inside")) == of(recorder.one("process"))


async def test_across_redis_the_listeners_span_has_the_remote_publisher_as_parent(
    recorder: Recorder, redis: Redis
) -> None:
    keys = ("order", "*")
    async with Hub() as one, Hub() as two:
        for hub in (one, two):
            recorder.instrument(hub)
            hub.add_listener(("order", "+"), awaited)
        async with hubsub.Bridge(one, redis.url, both=keys), hubsub.Bridge(two, redis.url, both=keys):
            for hub in (one, two):
                await hub.bridges[0].ready()
            two.respond(("order", "ask"), lambda key, message: message)
            one.publish(("order", "new"), 1)
            await until(lambda: len(recorder.all("process")) == 2, "both listeners")
            publish = recorder.one("publish")
            assert [parent_of(span) for span in recorder.all("process")] == [of(publish)] * 2
            assert len(recorder.all("deliver")) == 2
            recorder.clear()
            assert await one.request(("order", "ask"), 2, local=False) == 2
            request = recorder.one("request order/ask")
            assert {parent_of(span) for span in recorder.all("process order/ask")} == {of(request)}


def test_hubsub_does_not_import_it_and_says_what_is_missing() -> None:
    code = """
import sys
import hubsub, hubsub.web
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
sys.modules["opentelemetry"] = None
try:
    import hubsub.opentelemetry
except hubsub.MissingDriver as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "hubsub.opentelemetry needs opentelemetry-api: pip install 'hubsub[otel]'\n"
