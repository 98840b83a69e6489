"""What type checkers must see; checked by mypy and basedpyright, never run."""

import asyncio
from typing import Annotated, Any, assert_type

from hubsub import (
    Call,
    Event,
    Gap,
    GapSubscription,
    Hub,
    Key,
    Listener,
    Overflow,
    Publisher,
    Retry,
    Snapshot,
    SnapshotSubscription,
    Subscriber,
    Subscription,
    Wrapping,
)


class Order:
    number: int


ORDERS: Key[Order] = Key("orders", "*")
CREATED: Key[Order] = Key("orders", "created")
hub = Hub()

# Without a type a key says nothing of its messages.
assert_type(Key("a"), Key[Any])
assert_type(Key[Order]("orders"), Key[Order])
assert_type(Key.create_from("a") + "b", Key[Any])
assert_type(CREATED + "now", Key[Order])

# What is declared.
assert_type(hub.declare(("orders", "*"), Order), Key[Order])
assert_type(hub.declare("names", list[str]), Key[list[str]])
assert_type(hub.declare("maybe", Annotated[int, "more"]), Key[Any])

# Subscriptions.
assert_type(hub.subscribe(ORDERS), Subscription[Order])
assert_type(hub.subscribe([ORDERS, CREATED]), Subscription[Order])
assert_type(hub.subscribe(("a", "b")), Subscription[Any])
assert_type(hub.subscribe("a"), Subscription[Any])
hub.subscribe([("a", "b"), ("c", "d")])
hub.subscribe([("a", "b"), ("c",), "d", Key("e")])
hub.subscribe({("a",), ("b", "c")})
hub.subscribe(frozenset({"a"}))
mixed: list[Key[Any]] = [Key("a")]
hub.subscribe(mixed)
tuples: list[tuple[str, str]] = [("a", "b")]
hub.subscribe(tuples)
subscriber = Subscriber(hub, "s")
assert_type(subscriber.subscribe(ORDERS), Subscription[Order])


def is_large(key: Key[Order], order: Order) -> bool:
    return order.number > 100


async def read() -> None:
    subscription = hub.subscribe(ORDERS)
    async for key, order in subscription:
        assert_type(key, Key[Order])
        assert_type(order, Order)
    async for event in subscription:
        assert_type(event, Event[Order])
        assert_type(event.message, Order)
    assert_type(await subscription.consume(), Event[Order])
    assert_type(await subscription.get_batch(5), list[Event[Order]])
    assert_type(await hub.publish_wait(CREATED, Order()), int)
    assert_type(await hub.next(ORDERS), Event[Order])
    assert_type(await hub.next([ORDERS, CREATED], timeout=1.0), Event[Order])
    assert_type(await hub.next(ORDERS, where=is_large), Event[Order])
    assert_type(await hub.next(("a", "b")), Event[Any])
    assert_type(await hub.request(CREATED, Order()), Any)


async def read_gaps() -> None:
    with_gaps = hub.subscribe(ORDERS, gaps=True, maxsize=5, overflow=Overflow.DROP_OLDEST)
    assert_type(with_gaps, GapSubscription[Order])
    async for event in with_gaps:
        assert_type(event, Event[Order] | Gap)
        if not isinstance(event, Gap):
            assert_type(event.message, Order)
    assert_type(await with_gaps.consume(), Event[Order] | Gap)


async def load() -> dict[str, int]:
    return {}


async def read_snapshots() -> None:
    with_snapshot = hub.subscribe(ORDERS, snapshot=load)
    assert_type(with_snapshot, SnapshotSubscription[Order, dict[str, int]])
    async for event in with_snapshot:
        assert_type(event, Event[Order] | Snapshot[dict[str, int]])


# Listeners.
@hub.on(ORDERS)
def listen(key: Key[Any], order: Order) -> None: ...


@hub.on([ORDERS, CREATED])
async def listen_async(key: Key[Any], order: Order) -> None: ...


@hub.on(ORDERS, event=True)
def listen_event(event: Event[Order]) -> None: ...


@subscriber.on(("a", "*"))
async def listen_any(key: Key[Any], message: str) -> None: ...


@hub.responds(ORDERS)
async def respond(key: Key[Any], order: Order) -> int:
    return order.number


@hub.on(ORDERS)  # type: ignore[arg-type]
def listen_wrong(key: Key[Any], order: str) -> None:  # pyright: ignore[reportArgumentType]
    ...


@hub.on(ORDERS)
def unannotated(key, message):  # type: ignore[no-untyped-def]
    ...


@hub.on(ORDERS, where=lambda key, order: order.number > 5, once=True)
def listen_once(key: Key[Any], order: Order) -> None: ...


@hub.on(ORDERS, event=True, concurrency=5, retry=Retry(on=TimeoutError), maxsize=5)
async def listen_again(event: Event[Order]) -> None: ...


@hub.on(ORDERS, batch=(100, 0.05), concurrency=2)
async def listen_to_many(events: list[Event[Order]]) -> None: ...


@subscriber.on(ORDERS, batch=(100, 0.05))  # type: ignore[arg-type]
async def listen_to_many_wrongly(events: list[Event[str]]) -> None:  # pyright: ignore[reportArgumentType]
    ...


@hub.on(("a", "*"), batch=(100, 0.05))
async def listen_to_anything(events: list[Event[int]]) -> None: ...


def is_even(key: Key[Any], number: int) -> bool:
    return number % 2 == 0


@hub.on(ORDERS, where=lambda key, order: order.number > 5)  # type: ignore[arg-type]
def listen_filtered_wrongly(key: Key[Any], order: str) -> None:  # pyright: ignore[reportArgumentType]
    ...


assert_type(hub.subscribe(ORDERS, where=lambda key, order: order.number > 5), Subscription[Order])
hub.on(ORDERS, where=lambda order: True)  # type: ignore[arg-type,misc]  # pyright: ignore[reportArgumentType]
assert_type(hub.subscribe("a", where=is_even, gaps=True), GapSubscription[Any])
assert_type(hub.add_listener("a", print), Listener)
assert_type(subscriber.add_sync_listener(ORDERS, listen), Listener)

# Publishers.
publisher: Publisher[Order] = Publisher(hub, CREATED)
publisher.publish("now", Order())
publisher.publish("now", "not an order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Publisher(hub, "a").publish("b", 1)
Publisher(hub, "a").publish("b")
publisher.publish_with_headers("now", Order(), {"trace": "1"})
hub.publish(CREATED, Order())
hub.publish(CREATED)
hub.publish(CREATED, 5)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
hub.publish("a")
hub.publish(("a", "b"), 1)
hub.publish(tuple("ab"), 1)
hub.publish(Key("a"), 1)
hub.publish(["a"], 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
hub.publish(("a", 5), 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
hub.publish_threadsafe(CREATED, Order())
hub.publish_threadsafe(CREATED, 5)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def publish_and_wait() -> None:
    assert_type(await hub.publish_confirmed(CREATED, Order(), headers={"trace": "1"}), int)
    await hub.publish_confirmed(CREATED, 5)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await hub.publish_wait(CREATED, 5)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert_type(await asyncio.create_task(hub.next(ORDERS)), Event[Order])


def strings(key: Key[Any], message: str) -> None: ...


# Listeners that are added by a call are checked as decorated ones are.
hub.add_listener(ORDERS, listen)
hub.add_listener([ORDERS, CREATED], listen_async, concurrency=2, context="publisher")
hub.add_listener(ORDERS, listen_event, event=True)
hub.add_listener(ORDERS, listen_to_many, batch=(100, 0.05))
subscriber.add_listener(("a", "*"), listen_to_many, batch=(100, 0.05))
hub.add_listener(ORDERS, listen_async, debounce=0.3)
hub.add_listener(ORDERS, listen_async, throttle=0.3, retry=Retry())
hub.add_listener(ORDERS, lambda key, order: order.number)
hub.add_listener(("a", "*"), strings)
hub.add_listener(ORDERS, strings)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
hub.add_listener(ORDERS, listen_event)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
subscriber.add_listener(ORDERS, listen)
subscriber.add_listener(ORDERS, listen_event, event=True)
subscriber.add_listener(ORDERS, strings)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
Hub(onec=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
hub.remove_listener(listen)

# What a subscriber subscribes, as what a hub does.
assert_type(subscriber.subscribe(ORDERS, "gaps", gaps=True), GapSubscription[Order])
assert_type(subscriber.subscribe(ORDERS, "state", snapshot=load), SnapshotSubscription[Order, dict[str, int]])
assert_type(subscriber.subscribe("a", maxsize=5, where=is_even), Subscription[Any])


# A wrapper is checked as a listener is.
def wrap_order(call: Call[Order]) -> object:
    assert_type(call.message, Order)
    return call()


async def wrap_async(call: Call[Any]) -> object:
    return await call()


def wrap_string(call: Call[str]) -> object: ...


assert_type(hub.wrap(ORDERS, wrap_order), Wrapping)
hub.wrap(("a", "*"), wrap_async)
hub.wrap(ORDERS, wrap_string)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
