"""The brokers of the tests do what the tests of the bridges rely on."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiokafka
import aiokafka.errors
import asyncpg
import psutil
import pytest
import redis as driver

from brokers import Broker, Kafka, Postgres, Proxy, Redis, Sentinel, certificates
from brokers.fixtures import Private
from brokers.redis_server import ONCE

pytestmark = pytest.mark.once


def remember(redis: Redis, text: str) -> None:
    with redis.client() as client:
        client.set("memory", text)


def recall(redis: Redis) -> Any:
    with redis.client() as client:
        return client.get("memory")


async def kafka_send(address: str, topic: str, text: bytes, **security: Any) -> None:
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=address, retry_backoff_ms=50, **security)
    try:
        await producer.start()
        await producer.send_and_wait(topic, text)
    finally:
        # `async with` would leave it open when it cannot start.
        await producer.stop()


async def kafka_read(address: str, topic: str, count: int, **security: Any) -> list[bytes]:
    async with aiokafka.AIOKafkaConsumer(
        topic, bootstrap_servers=address, auto_offset_reset="earliest", retry_backoff_ms=50, **security
    ) as consumer:
        return [(await consumer.getone()).value or b"" for _ in range(count)]


# Redis


async def test_redis_answers(redis: Redis, namespace: str) -> None:
    with redis.client() as client:
        client.set(namespace, "here")
        assert client.get(namespace) == "here"


async def test_redis_comes_back_on_its_port_with_what_it_confirmed(private: Private) -> None:
    redis = await private(Redis())
    port, pid = redis.port, redis.pid
    remember(redis, "confirmed")
    redis.kill()
    assert not redis.is_running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    await redis.start_wait()
    assert recall(redis) == "confirmed"
    await redis.restart_wait()
    assert recall(redis) == "confirmed"
    assert redis.port == port
    assert redis.pid != pid


async def test_frozen_redis_accepts_and_does_not_answer_until_it_is_thawed(private: Private) -> None:
    redis = await private(Redis())
    redis.freeze()
    with socket.create_connection(("127.0.0.1", redis.port)) as client:
        client.sendall(b"PING\r\n")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(100)
        redis.thaw()
        client.settimeout(10)
        assert client.recv(100) == b"+PONG\r\n"


async def test_a_frozen_redis_can_be_killed_and_started_again(private: Private) -> None:
    redis = await private(Redis())
    remember(redis, "before")
    redis.freeze()
    await redis.restart_wait()
    assert recall(redis) == "before"


async def test_redis_takes_settings(private: Private) -> None:
    redis = await private(Redis(maxmemory="10mb", maxmemory_policy="noeviction"))
    with redis.client() as client:
        assert client.config_get("maxmemory*")["maxmemory"] == str(10 * 2**20)
        assert client.config_get("maxmemory*")["maxmemory-policy"] == "noeviction"
        assert client.config_get("appendfsync")["appendfsync"] == "always"


async def test_what_does_not_start_says_why(private: Private) -> None:
    with pytest.raises(RuntimeError, match="maxmemory"):
        await private(Redis(maxmemory="plenty"))


async def test_redis_by_tls_is_deaf_to_plain_clients_and_shows_a_certificate_to_trust(private: Private) -> None:
    redis = await private(Redis(tls=True))
    assert redis.url.startswith("rediss://")
    remember(redis, "secret")
    with driver.Redis(port=redis.port, retry=ONCE) as plain, pytest.raises(driver.ConnectionError):
        plain.ping()
    with socket.create_connection(("127.0.0.1", redis.port)) as line, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(line, server_hostname="127.0.0.1")


async def test_redis_with_a_password_refuses_who_does_not_know_it(private: Private) -> None:
    redis = await private(Redis(password="open-sesame"))
    remember(redis, "treasure")
    with driver.Redis(port=redis.port, retry=ONCE) as client, pytest.raises(driver.AuthenticationError):
        client.ping()


async def test_redis_with_a_user_has_no_other_user(private: Private) -> None:
    redis = await private(Redis(username="ali", password="open-sesame"))
    remember(redis, "treasure")
    for username, password in ((None, None), (None, "open-sesame"), ("ali", "open-barley")):
        with (
            driver.Redis(port=redis.port, username=username, password=password, retry=ONCE) as client,
            pytest.raises(driver.AuthenticationError),
        ):
            client.ping()


async def test_sentinel_fails_over_and_the_failed_master_comes_back_as_a_replica(private: Private) -> None:
    sentinel = await private(Sentinel())
    first, second = sentinel.master, sentinel.replica
    assert sentinel.current() is first
    with first.client() as client:
        client.set("memory", "replicated")
        assert client.wait(1, 10_000) == 1
    assert await asyncio.to_thread(sentinel.fail_over) is second
    assert recall(second) == "replicated"
    remember(second, "newer")
    await first.start_wait()
    await until(lambda: is_replica(first))
    await until(lambda: recall(first) == "newer")
    await sentinel.restart_wait()
    assert sentinel.current() is second


def is_replica(redis: Redis) -> bool:
    try:
        with redis.client() as client:
            replication: Any = client.info("replication")
    except driver.ConnectionError:
        return False  # it hangs up on everybody when its role changes
    return bool(replication["role"] == "slave")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another process, of which nothing tells."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


# Kafka


async def test_kafka_answers(kafka: Kafka, namespace: str) -> None:
    await kafka_send(kafka.address(), namespace, b"here")
    assert await kafka_read(kafka.address(), namespace, 1) == [b"here"]


@pytest.mark.xdist_group("kafka")
async def test_kafka_comes_back_on_its_port_with_what_it_confirmed(private: Private, namespace: str) -> None:
    kafka = await private(Kafka())
    await kafka_send(kafka.address(), namespace, b"before")
    kafka.freeze()
    kafka.thaw()
    await kafka_send(kafka.address(), namespace, b"thawed")
    kafka.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", kafka.port))
    await kafka.start_wait()
    await kafka_send(kafka.address(), namespace, b"after")
    assert await kafka_read(kafka.address(), namespace, 3) == [b"before", b"thawed", b"after"]


@pytest.mark.xdist_group("kafka")
async def test_kafka_demands_tls_and_password_where_it_is_told_to(private: Private, namespace: str) -> None:
    kafka = await private(Kafka(secure=("SSL", "SASL_PLAINTEXT", "SASL_SSL"), num_partitions=3))
    login: dict[str, Any] = {"sasl_mechanism": "PLAIN", "sasl_plain_username": kafka.username}
    right = login | {"sasl_plain_password": kafka.password}
    trust = {"ssl_context": certificates().context()}

    await kafka_send(kafka.address("SSL"), namespace, b"1", security_protocol="SSL", **trust)
    await kafka_send(kafka.address("SASL_PLAINTEXT"), namespace, b"2", security_protocol="SASL_PLAINTEXT", **right)
    await kafka_send(kafka.address("SASL_SSL"), namespace, b"3", security_protocol="SASL_SSL", **right, **trust)
    assert sorted(await kafka_read(kafka.address(), namespace, 3)) == [b"1", b"2", b"3"]

    wrong = login | {"sasl_plain_password": "looking-glass"}
    refused: dict[str, dict[str, Any]] = {
        "SSL": {"ssl_context": ssl.create_default_context()},
        "SASL_PLAINTEXT": wrong,
        "SASL_SSL": wrong | trust,
    }
    for listener, security in refused.items():
        with pytest.raises(aiokafka.errors.KafkaError):
            await kafka_send(kafka.address(listener), namespace, b"4", security_protocol=listener, **security)
    with pytest.raises(aiokafka.errors.KafkaError):
        await kafka_send(kafka.address("SASL_PLAINTEXT"), namespace, b"5", request_timeout_ms=2000)


async def test_kafka_sends_clients_back_to_the_proxy_they_came_by(kafka: Kafka, namespace: str) -> None:
    async with kafka.proxy() as proxy:
        address = proxy.url.removeprefix("kafka://")
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=address) as producer:
            await producer.send_and_wait(namespace, b"through")
            proxy.stall()
            stalled = await producer.send(namespace, b"stalled")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(stalled), 0.2)
            proxy.resume()
            await stalled
    assert await kafka_read(kafka.address(), namespace, 2) == [b"through", b"stalled"]


# PostgreSQL


async def pg_write(postgres: Postgres, text: str) -> None:
    client = await postgres.client("hubsub")
    await client.execute("create table if not exists memory (text text)")
    await client.execute("insert into memory values ($1)", text)
    await client.close()


async def pg_read(postgres: Postgres) -> list[str]:
    client = await postgres.client("hubsub")
    rows = await client.fetch("select text from memory")
    await client.close()
    return [row["text"] for row in rows]


async def test_postgres_comes_back_on_its_port_with_what_it_confirmed(private: Private) -> None:
    postgres = await private(Postgres())
    await pg_write(postgres, "before")
    staying = await postgres.client()
    postgres.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", postgres.port))
    await postgres.start_wait()
    assert await pg_read(postgres) == ["before"]
    postgres.freeze()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(postgres.client(), 0.2)
    await postgres.restart_wait()
    assert await pg_read(postgres) == ["before"]
    assert staying.is_closed()


async def test_postgres_has_a_role_that_is_no_superuser_and_takes_settings(postgres: Postgres) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await postgres.execute("alter system set work_mem = '1MB'", user="hubsub")
    client = await postgres.client()
    assert await client.fetchval("show fsync") == "off"
    await client.close()


async def test_postgres_demands_tls_and_password_where_it_is_told_to(private: Private) -> None:
    postgres = await private(Postgres(tls=True, password="open 'sesame'/"))
    await pg_write(postgres, "secret")
    assert await pg_read(postgres) == ["secret"]
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="no encryption"):
        await asyncpg.connect(postgres.url.replace("require", "disable"))
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres.url, password="open barley")
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncpg.connect(postgres.url, ssl=ssl.create_default_context())


# All of them


@pytest.mark.parametrize("how", ["returns", "is killed"])
def test_brokers_and_their_files_end_with_whoever_started_them(redis: Redis, how: str) -> None:
    program = """if True:
        import sys
        from brokers import Redis
        redis = Redis().start()
        print(redis.pid, redis.folder, flush=True)
        sys.stdin.read()
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pid, folder = process.stdout.readline().decode().split()
        assert psutil.pid_exists(int(pid))
        if how == "is killed":
            process.kill()
        else:
            process.stdin.close()
    # It is not our child, and nothing tells of its end.
    while psutil.pid_exists(int(pid)) or Path(folder).parent.exists():
        time.sleep(0.01)


def test_the_port_of_a_broker_that_is_down_is_given_to_nobody_else() -> None:
    broker = Broker()
    try:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", broker.port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", broker.port))
    finally:
        broker.close()
        broker.close()


def test_a_broker_that_nobody_closes_leaves_no_port_open() -> None:
    broker = Broker()
    [reserved] = broker._reserved
    del broker
    assert reserved.fileno() == -1


# The proxy


@pytest.fixture
async def echo() -> Any:
    """The port of a server that sends back what it gets, and "bye" at its end."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                heard.put_nowait(data)
                writer.write(data)
            writer.write(b"bye")
        except ConnectionError:
            heard.put_nowait(b"(reset)")
        finally:
            writer.close()

    heard: asyncio.Queue[bytes] = asyncio.Queue()
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], heard
    server.close()


async def nothing_comes(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), 0.1)
    except TimeoutError:
        return True
    return False


async def test_proxy_passes_everything_and_the_end_too(echo: Any) -> None:
    port, _ = echo
    sent = os.urandom(1_000_000)
    async with Proxy(port, url=f"echo://127.0.0.1:{port}/0") as proxy:
        assert proxy.url == f"echo://127.0.0.1:{proxy.port}/0"
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read(-1) == sent + b"bye"
        writer.close()
        await until(lambda: proxy.connections == 0)


async def test_proxy_keeps_back_what_is_stalled_and_lets_it_through_later(echo: Any) -> None:
    port, heard = echo
    async with Proxy(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.stall()
        writer.write(b"later")
        assert await nothing_comes(reader)
        assert heard.empty()
        proxy.resume()
        assert await reader.readexactly(5) == b"later"
        writer.close()


async def test_proxy_that_stalls_replies_lets_requests_through(echo: Any) -> None:
    port, heard = echo
    async with Proxy(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.stall_replies()
        writer.write(b"order")
        assert await heard.get() == b"order"
        assert await nothing_comes(reader)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()


async def test_proxy_cuts_both_sides_and_accepts_again(echo: Any) -> None:
    port, heard = echo
    async with Proxy(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == await heard.get()
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        assert await heard.get() == b"(reset)"
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"two")
        assert await reader.readexactly(3) == b"two"
        writer.close()


async def test_proxy_refuses_until_it_accepts_on_the_same_port(echo: Any) -> None:
    port, _ = echo
    async with Proxy(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"first")
        assert await reader.readexactly(5) == b"first"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"
        writer.close()
        await proxy.accept()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        writer.close()


async def test_proxy_half_closes(echo: Any) -> None:
    port, heard = echo
    async with Proxy(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == await heard.get()
        proxy.half_close()
        assert await reader.read(1) == b""
        for order in (b"two", b"three"):
            writer.write(order)
            assert await heard.get() == order
        writer.close()


async def test_proxy_delays_in_both_directions_without_narrowing_the_line(echo: Any) -> None:
    port, heard = echo
    async with Proxy(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        began = time.monotonic()
        proxy.delay(0.2)
        # In twenty pieces, which would take four seconds each way if they were delayed one after the other.
        for _ in range(20):
            writer.write(b"x" * 65536)
            await writer.drain()
        assert len(await reader.readexactly(20 * 65536)) == 20 * 65536
        assert 0.4 <= time.monotonic() - began < 4
        while not heard.empty():
            heard.get_nowait()
        proxy.delay(3600)
        writer.write(b"much later")
        assert await nothing_comes(reader)
        assert heard.empty()
        writer.close()


async def test_proxy_lets_so_many_bytes_a_second_through_in_each_direction(echo: Any) -> None:
    port, _ = echo
    async with Proxy(port) as proxy:
        lines = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(2)]
        proxy.slow(1_000_000)
        began = time.monotonic()
        for _, writer in lines:
            writer.write(b"x" * 300_000)
        await asyncio.gather(*(reader.readexactly(300_000) for reader, _ in lines))
        # Both directions at the same time, and both connections by one line.
        assert time.monotonic() - began >= 0.5
        proxy.slow(None)
        for reader, writer in lines:
            writer.write(b"x" * 10_000_000)
            await reader.readexactly(10_000_000)
            writer.close()


async def test_proxy_cuts_in_the_middle_of_a_message(echo: Any) -> None:
    port, heard = echo
    async with Proxy(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.cut_after(4)
        writer.write(b"message")
        assert await heard.get() == b"mess"
        assert await heard.get() == b"(reset)"
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"whole")
        assert await reader.readexactly(5) == b"whole"
        writer.close()


async def test_proxy_before_a_port_where_nobody_listens_resets_whoever_comes() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with Proxy(nobody.getsockname()[1]) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()
