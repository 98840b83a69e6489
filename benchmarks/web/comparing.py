"""What it costs to have messages in browsers, against sockets and streams by hand and against peers."""

from __future__ import annotations

import json
from collections.abc import Callable
from statistics import median
from typing import Any

from ..harness import Side, compare, measure
from .load import AT, Clients, Pinger, Server

# uvicorn has two implementations of WebSockets that are not deprecated.
IMPLEMENTATIONS = {"sansio": "websockets-sansio", "wsproto": "wsproto"}


def with_each(register: Callable[..., Any]) -> Callable[..., Any]:
    """Register a benchmark for each implementation of WebSockets; its function gets the name of one."""

    def decorate(prepare: Callable[[str], Any]) -> None:
        for suffix, ws in IMPLEMENTATIONS.items():

            def prepared(ws: str = ws) -> Any:
                return prepare(ws)

            prepared.__name__ = f"{prepare.__name__}_{suffix}"
            sentence = " ".join((prepare.__doc__ or "").split())
            prepared.__doc__ = sentence if suffix == "sansio" else f"The same, uvicorn with `{ws}`."
            register(prepared)

    return decorate


def _delivered(server: Server, way: str, number: int, messages: int) -> Side:
    clients = server.clients(way, number)
    server.run(clients.deliver(1))
    return lambda: server.run(clients.deliver(messages)) / messages


def _against(ws: str, theirs: str, ours: str = "hubsub", *, clients: int, messages: int) -> tuple[Side, Side]:
    server = Server(ws)
    return _delivered(server, ours, clients, messages), _delivered(server, theirs, clients, messages)


@with_each(compare(at_least=15, rounds=7))
def bulk_to_1k_sockets(ws: str) -> tuple[Side, Side]:
    """`Hub.publish` of 100 messages until each of 1 000 WebSockets has them, uvicorn with `websockets-sansio`, against
    a loop of Starlette's `send_text` over them."""
    return _against(ws, "bare", clients=1000, messages=100)


@with_each(compare(at_least=10, rounds=7))
def bulk_to_1k_sockets_broadcaster(ws: str) -> tuple[Side, Side]:
    """The same against broadcaster with Starlette, uvicorn with `websockets-sansio`."""
    return _against(ws, "broadcaster", clients=1000, messages=100)


@with_each(compare(at_least=50, rounds=5))
def bulk_to_100_sockets_fwp(ws: str) -> tuple[Side, Side]:
    """The same to 100 WebSockets, against `PubSubEndpoint.publish` of fastapi_websocket_pubsub, uvicorn with
    `websockets-sansio`."""
    return _against(ws, "fwp", clients=100, messages=100)


@compare(at_least=5, rounds=7)
def bulk_to_500_streams() -> tuple[Side, Side]:
    """The same to 500 streams of server-sent events, against Starlette's `StreamingResponse` with a queue for each."""
    return _against("websockets-sansio", "bare_stream", "hubsub_stream", clients=500, messages=100)


@with_each(compare(at_most=1.2, rounds=31))
def one_to_1k_sockets(ws: str) -> tuple[Side, Side]:
    """One message to 1 000 WebSockets when nothing else is under way, until each has it, against the loop of
    `send_text`; uvicorn with `websockets-sansio`."""
    return _against(ws, "bare", clients=1000, messages=1)


@with_each(measure("encodings", at_most=1, rounds=3))
def encodings_of_a_message(ws: str) -> Side:
    """How often a message is encoded for 1 000 WebSockets; uvicorn with `websockets-sansio`."""
    server = Server(ws)
    clients = server.clients("hubsub", 1000)

    async def encodings() -> float:
        clients.expect(10 * 1000)
        answer = await server.post("/run/hubsub", n=10, pause=0.001)
        await clients.come()
        return float(answer["encoded"]) / 10

    return lambda: server.run(encodings())


@with_each(compare(at_most=0.125, rounds=5))
def pause_for_one_to_8k_sockets(ws: str) -> tuple[Side, Side]:
    """Longest processor time from one turn of the server's loop to the next while one message goes to 8 000 WebSockets,
    against the loop of `send_text`; uvicorn with `websockets-sansio`."""
    server = Server(ws)

    def side(way: str) -> Side:
        clients = server.clients(way, 8000)

        async def pause() -> float:
            clients.expect(8000)
            longest = await server.post(f"/pause/{way}")
            await clients.come()
            return float(longest)

        return lambda: server.run(pause())

    return side("hubsub"), side("bare")


@with_each(measure("KiB", at_most=5, rounds=3))
def memory_of_an_idle_socket(ws: str) -> Side:
    """Resident memory of the server for each of 2 000 WebSockets that are subscribed and get nothing, beyond that for
    each of 2 000 of the loop of `send_text`; uvicorn with `websockets-sansio`."""

    def each() -> float:
        server = Server(ws)
        grown = {}
        for way in ("hubsub", "bare"):
            # What only the first ones need.
            server.clients(way, 100)
        for way in ("hubsub", "bare"):
            before = server.run(server.get("/state"))["resident"]
            server.clients(way, 2000)
            grown[way] = server.run(server.get("/state"))["resident"] - before
        return max(grown["hubsub"] - grown["bare"], 0) / 2000 / 1024

    return each


@with_each(compare(at_most=1.3, rounds=11))
def delay_beside_one_that_stops_reading(ws: str) -> tuple[Side, Side]:
    """Median time from publishing a message of 20 KB, one each 2 ms, until a WebSocket has it, of ten beside an
    eleventh that stops reading, against eleven that read; uvicorn with `websockets-sansio`."""
    server = Server(ws)

    async def delay(is_stuck: bool) -> float:
        clients = Clients(server, "hubsub")
        await clients.connect(11)
        if is_stuck:
            clients.all[-1].transport.pause_reading()
        clients.expect(500 * (10 if is_stuck else 11))
        clients.delays = []
        await server.post("/run/hubsub", n=500, size=20_000, pause=0.002)
        await clients.come()
        await clients.cut()
        return median(clients.delays)

    return lambda: server.run(delay(True)), lambda: server.run(delay(False))


@with_each(compare(at_most=1.8, rounds=3))
def resume_of_5k_sockets(ws: str) -> tuple[Side, Side]:
    """5 000 WebSockets that were cut come back, 100 at a time, and get the 10 messages that they missed, each once,
    against 5 000 that come for the first time; uvicorn with `websockets-sansio`."""
    server = Server(ws)
    number, missed = 5000, 10

    async def fresh() -> float:
        clients = Clients(server, "hubsub")
        seconds = await clients.connect(number)
        await clients.cut()
        return seconds

    async def back() -> float:
        clients = Clients(server, "hubsub")
        await clients.connect(1)
        await clients.deliver(1)
        await clients.cut()
        # Where all of them were: what the server answers a new one.
        await clients.connect(1)
        found = AT.findall(clients.answer)
        position = json.loads(found[-1])
        await clients.cut()
        await server.post("/run/hubsub", n=missed)
        subscriptions = [{"id": 1, "patterns": [["room", "*"]]}]
        hello = {"type": "hello", "resume": {"at": position, "subscriptions": subscriptions}}
        clients.expect(number * missed)
        seconds = await clients.connect(number, json.dumps(hello).encode())
        await clients.come()
        assert {client.count for client in clients.all} == {missed}
        await clients.cut()
        return seconds

    return lambda: server.run(back()), lambda: server.run(fresh())


@with_each(compare(at_most=2, rounds=3))
def slowest_answer_while_4k_come_back(ws: str) -> tuple[Side, Side]:
    """The slowest answer to an HTTP request, one after the other, while 4 000 WebSockets that were cut come back, 100
    at a time, with nothing to resume, against the loop of `send_text`; uvicorn with `websockets-sansio`."""
    server = Server(ws)

    def side(way: str) -> Side:
        async def slowest() -> float:
            clients = Clients(server, way)
            await clients.connect(4000)
            await clients.cut()
            pinger = Pinger(server)
            await clients.connect(4000)
            seconds = pinger.slowest()
            await clients.cut()
            return seconds

        return lambda: server.run(slowest())

    return side("hubsub"), side("bare")
