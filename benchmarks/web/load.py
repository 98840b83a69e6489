"""The load: clients that do as little as they can, on a loop of their own, and the server that they are connected to.

`python -m benchmarks.web.load PORT` asks a server for one HTTP answer after the other, until its input ends; then it
prints how long the slowest took.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from ..harness import Missing

T = TypeVar("T")

PYTHON = Path(__file__).resolve().parents[2] / ".venv-web" / "bin" / "python"
AT_ONCE = 100  # connections that are being made
PATIENCE = 120  # seconds; beyond it a message was lost
# Each message has it once.
MARK = b'"user":'
SENT = re.compile(rb'"sent": ?([\d.]+)')
AT = re.compile(rb'"at":(\{[^}]+\})')
CALL = re.compile(rb'"method": ?"notify".*?"call_id": ?"(\w+)"')


class Client(asyncio.Protocol):
    """One client: opens a WebSocket or a stream, counts the messages that come, and reads nothing else.

    Args:
        clients: Whose it is.
        first: What it says first; None for a stream.
    """

    def __init__(self, clients: Clients, first: bytes | None) -> None:
        self._clients = clients
        self._first = first
        self._tail = b""
        self.is_open = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.count = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        head = f"GET /{self._clients.way} HTTP/1.1\r\nHost: localhost\r\n"
        if self._first is not None:
            head += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            head += f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
        transport.write(head.encode() + b"\r\n")

    def say(self, text: bytes) -> None:
        """Send a text frame; a mask of zeros is one, too."""
        size = len(text)
        length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
        self.transport.write(b"\x81" + length + bytes(4) + text)

    def data_received(self, data: bytes) -> None:
        if not self.is_open:
            self._tail += data
            if b"\r\n\r\n" not in self._tail:
                return
            data, self._tail = self._tail.partition(b"\r\n\r\n")[2], b""
            self.is_open = True
            if self._first is not None:
                self.say(self._first)
        if not self.answered.done():
            # The welcome of the endpoint is no answer.
            if b'"ok"' in data or b"event: open" in data or b'"response"' in data:
                self.answered.set_result(None)
                self._clients.answer = data
            if MARK not in data:
                return
        data = self._tail + data
        # A mark that is cut in two is found with what comes next.
        self._tail = data[1 - len(MARK) :]
        if found := data.count(MARK):
            self.count += found
            self._clients.counted(found)
        if self._clients.delays is not None:
            now = time.monotonic()
            self._clients.delays += [now - float(each) for each in SENT.findall(data)]
        if self._clients.way == "fwp":
            # It asks each client to take each message, and waits for the answers.
            for call in CALL.findall(data):
                self.say(b'{"response":{"result":"None","result_type":"str","call_id":"%b"}}' % call)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(error or ConnectionError("the server has closed the connection"))


FIRST: dict[str, bytes | None] = {
    "hubsub": json.dumps({"type": "subscribe", "id": 1, "patterns": [["room", "*"]]}).encode(),
    "bare": b"hello",
    "broadcaster": b"hello",
    "fwp": b'{"request":{"method":"subscribe","arguments":{"topics":["room"]},"call_id":"1"}}',
    "hubsub_stream": None,
    "bare_stream": None,
}


class Clients:
    """Clients that get the messages of a server in one way."""

    def __init__(self, server: Server, way: str) -> None:
        self.server = server
        self.way = way
        self.all: list[Client] = []
        self.answer = b""
        self.delays: list[float] | None = None
        self._left = 0
        self._done: asyncio.Future[None] | None = None
        self._last = 0.0

    async def connect(self, number: int, first: bytes | None = None) -> float:
        """Connect so many more, each until it is answered; return how many seconds that took."""
        loop = asyncio.get_running_loop()
        first = FIRST[self.way] if first is None else first
        began = time.monotonic()
        room = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with room:
                _, client = await loop.create_connection(lambda: Client(self, first), "127.0.0.1", self.server.port)
                self.all.append(client)
                await client.answered

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(one() for _ in range(number)))
        return time.monotonic() - began

    async def cut(self) -> None:
        """Cut all lines, and wait until the server knows."""
        for client in self.all:
            client.transport.abort()
        self.all.clear()
        async with asyncio.timeout(PATIENCE):
            while (await self.server.get("/state"))["connected"][self.way]:
                pass

    def counted(self, found: int) -> None:
        self._left -= found
        if self._left <= 0 and self._done is not None and not self._done.done():
            self._last = time.monotonic()
            self._done.set_result(None)

    def expect(self, messages: int) -> None:
        """So many messages are to come, of all clients together."""
        self._left = messages
        self._done = asyncio.get_running_loop().create_future()

    async def come(self) -> float:
        """Wait for them; return the time of the last one."""
        assert self._done is not None
        async with asyncio.timeout(PATIENCE):
            await self._done
        return self._last

    async def deliver(self, messages: int, **query: Any) -> float:
        """Have the server publish so many messages; return the seconds from the first until everybody has all."""
        self.expect(messages * len(self.all))
        answer = await self.server.post(f"/run/{self.way}", n=messages, **query)
        return await self.come() - float(answer["began"])


class Server:
    """The server in its process, and the loop of its clients.

    Raises:
        Missing: Its environment is not here.
    """

    running: Server | None = None

    def __init__(self, ws: str) -> None:
        if not PYTHON.exists():
            raise Missing(f"{PYTHON.parents[1].name} is missing, which `make bench` makes")
        # One at a time: the clients of another benchmark would be idle ones of this.
        if Server.running is not None:
            Server.running.close()
        Server.running = self
        command = [str(PYTHON), "-m", "benchmarks.web.server", ws]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the loop of the clients."""
        return self._runner.run(coroutine)

    def clients(self, way: str, number: int) -> Clients:
        """Connect so many clients."""
        clients = Clients(self, way)
        self.run(clients.connect(number))
        return clients

    async def get(self, path: str) -> Any:
        return await self._ask("GET", path)

    async def post(self, path: str, **query: Any) -> Any:
        return await self._ask("POST", f"{path}?{'&'.join(f'{name}={value}' for name, value in query.items())}")

    async def _ask(self, method: str, path: str) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"{method} {path}: {answer[:500]!r}")
        return json.loads(body)

    def close(self) -> None:
        self._runner.close()
        self._process.communicate()


class Pinger:
    """Asks a server for an HTTP answer, again and again, from a process that does nothing else."""

    def __init__(self, server: Server) -> None:
        command = [sys.executable, "-m", "benchmarks.web.load", str(server.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def slowest(self) -> float:
        """Stop, and return the seconds of the slowest answer."""
        return float(self._process.communicate()[0])


def ping(port: int) -> float:
    """Ask until the input ends; return the seconds of the slowest answer."""
    import http.client

    slowest = 0.0
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    print("begun", flush=True)
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        began = time.monotonic()
        connection.request("GET", "/ping")
        connection.getresponse().read()
        slowest = max(slowest, time.monotonic() - began)
    return slowest


if __name__ == "__main__":
    print(ping(int(sys.argv[1])))
