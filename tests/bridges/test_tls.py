"""Files of certificates that are renewed while a bridge runs, and options for TLS that make no sense."""

import asyncio
import os
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.asyncio import Redis

from brokers.certificates import certificates
from hubsub import Bridge, Hub
from hubsub.bridges.redis import RedisAdapter
from hubsub.bridges.tls import Tls, read_tls
from hubsub.testing.conformance import until

ADAPTERS = {
    "amqps": "amqps://127.0.0.1:{port}?cafile={file}",
    "kafka": "kafka://127.0.0.1:{port}?security_protocol=SSL&ssl_cafile={file}",
    "jetstream+tls": "jetstream+tls://127.0.0.1:{port}?tls_ca={file}",
    "mqtts": "mqtts://127.0.0.1:{port}?cafile={file}",
    "postgres": "postgres://127.0.0.1:{port}/x?sslmode=verify-full&sslrootcert={file}",
    "postgres-log": "postgres-log://127.0.0.1:{port}/x?sslmode=verify-full&sslrootcert={file}",
    "rediss": "rediss://127.0.0.1:{port}?ssl_ca_certs={file}",
    "rediss+cluster": "rediss+cluster://127.0.0.1:{port}?ssl_ca_certs={file}",
    "rediss-stream": "rediss-stream://127.0.0.1:{port}?ssl_ca_certs={file}",
    "tls": "tls://127.0.0.1:{port}?tls_ca={file}",
    "wss": "wss://127.0.0.1:{port}?ssl_ca_certs={file}",
}


def write(file: Path, data: bytes) -> None:
    """Replace a file as those do that renew certificates: nobody finds half of it."""
    new = file.with_suffix(".new")
    new.write_bytes(data)
    os.replace(new, file)


def authority() -> bytes:
    """The certificate of a new authority, which nobody's certificate is of."""
    return trustme.CA().cert_pem.bytes()


@pytest.mark.parametrize("scheme", ADAPTERS)
async def test_a_renewed_authority_is_trusted_by_the_next_connection(scheme: str, tmp_path: Path) -> None:
    file, are_met = tmp_path / "authority.pem", asyncio.Event()
    begins_plainly = scheme in ("tls", "jetstream+tls", "postgres", "postgres-log")
    write(file, authority())

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            if scheme in ("tls", "jetstream+tls"):
                writer.write(b'INFO {"server_id": "x", "version": "2.10.0", "max_payload": 1, "headers": true}\r\n')
            elif scheme.startswith("postgres"):
                await reader.readexactly(8)
                writer.write(b"S")
            if begins_plainly:
                await writer.start_tls(context)
            are_met.set()
            await reader.read()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates().key_and_chain)
    tls = None if begins_plainly else context
    async with await asyncio.start_server(meet, "127.0.0.1", 0, ssl=tls) as server, Hub() as hub:
        url = ADAPTERS[scheme].format(port=server.sockets[0].getsockname()[1], file=file)
        async with Bridge(hub, url, both="*") as bridge:
            await until(lambda: bridge.health().last_error, "the first attempt")
            assert "certificate verify failed" in str(bridge.health().last_error)
            assert not are_met.is_set()
            write(file, certificates().authority.read_bytes())
            async with asyncio.timeout(30):
                await are_met.wait()


def test_a_context_is_made_anew_when_a_file_has_changed_and_only_then(tmp_path: Path) -> None:
    file = tmp_path / "authority.pem"
    write(file, authority())
    tls = Tls.of_files(str(file))
    first = tls.context()
    assert tls.context() is first
    write(file, authority())
    second = tls.context()
    assert second is not first
    assert second.get_ca_certs() != first.get_ca_certs()
    assert tls.context() is second


def test_while_a_file_is_being_written_the_context_is_the_one_of_before(tmp_path: Path) -> None:
    file, whole = tmp_path / "client.pem", certificates().key_and_chain.read_bytes()
    write(file, whole)
    tls = Tls.of_files(certfile=str(file))
    before = tls.context()
    write(file, whole[: len(whole) // 2])
    assert tls.context() is before
    file.unlink()
    assert tls.context() is before
    write(file, whole)
    assert tls.context() is not before


def test_a_context_that_was_given_stays() -> None:
    context = certificates().context()
    tls = read_tls({"ssl_context": context}, None)
    assert tls is not None
    assert tls.context() is context


def test_connections_to_redis_share_a_context_as_long_as_the_files_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "authority.pem"
    write(file, authority())
    for address in (RedisAdapter(f"rediss://localhost?ssl_ca_certs={file}"), RedisAdapter(client=redis_of(file))):
        one, two = (address._server._address.driver().ssl_context.get() for _ in range(2))
        assert one is two
        write(file, authority())
        assert address._server._address.driver().ssl_context.get() is not one


def redis_of(file: Path) -> Redis:
    return Redis(ssl=True, ssl_ca_certs=str(file))


@pytest.mark.parametrize(
    ("values", "scheme", "error", "says"),
    [
        (
            {"cafile": "a", "keyfile": "b"},
            "mqtts",
            TypeError,
            "cafile, keyfile is for TLS: begin the URL with mqtts://",
        ),
        ({"ssl_context": certificates().context()}, "wss", TypeError, "ssl_context is for TLS"),
        ({"ssl_context": certificates().context(), "cafile": "a"}, None, TypeError, "give one or the other"),
        ({"keyfile": "a"}, None, TypeError, "keyfile needs certfile"),
        ({"cafile": "/nowhere"}, None, ValueError, "cafile must be files of certificates that can be read: "),
        ({"cafile": __file__}, None, ValueError, "cafile must be files of certificates that can be read: "),
    ],
)
def test_options_for_tls_that_make_no_sense_are_refused(
    values: dict[str, Any], scheme: str | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        read_tls(values, scheme)


def test_without_options_for_tls_the_url_decides() -> None:
    assert read_tls({}, "mqtts") is None
    assert isinstance(read_tls({}, None), Tls)
