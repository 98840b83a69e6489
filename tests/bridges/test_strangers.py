"""What answers where a broker should, and is none: a URL with the port of something else."""

import asyncio

import pytest

from hubsub import Bridge, Hub
from hubsub.testing.conformance import until

BROKERS = {
    "redis": "it is no Redis: it has sent b'{}",
    "redis-stream": "it is no Redis: it has sent b'{}",
    "redis+cluster": "it is no Redis: it has sent b'{}",
    "mqtt": "it is no MQTT broker: it has sent b'{}",
    "amqp": "it is no RabbitMQ, or speaks another protocol",
    "ws": "/: InvalidMessage: did not receive a valid HTTP response",
}
GREETINGS = ["SSH-2.0-OpenSSH_9.2", "220 mail.example ESMTP"]


@pytest.mark.parametrize("greeting", GREETINGS)
@pytest.mark.parametrize("scheme", BROKERS)
async def test_a_server_of_another_kind_is_an_error_that_says_so(scheme: str, greeting: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{greeting}\r\n".encode())
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, Hub() as hub:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Bridge(hub, url, both="*") as bridge:
            await until(lambda: bridge.health().last_error, "the first attempt")
            assert BROKERS[scheme].format(greeting[:10]) in str(bridge.health().last_error)
            assert bridge.health().state == "connecting"
