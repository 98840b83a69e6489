"""The context in which async listeners run: an option of each, with a default of the hub."""

import asyncio
import logging
from contextvars import ContextVar
from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLogger

from hubsub import Hub, Key, Retry

request_id: ContextVar[str] = ContextVar("request_id", default="-")


async def serve(hub: Hub, name: str) -> None:
    """A request of that name, which publishes."""
    request_id.set(name)
    structlog.contextvars.bind_contextvars(request=name)
    hub.publish("order", f"by {name}")


async def serve_two(hub: Hub) -> None:
    """Two requests at the same time, each a task of its own."""
    await asyncio.gather(serve(hub, "one"), serve(hub, "two"))


OPTIONS: list[Any] = [{}, {"concurrency": 2}, {"retry": Retry(2, 0)}]


@pytest.mark.parametrize("options", OPTIONS)
async def test_the_hubs_option_is_the_default_of_its_listeners(options: Any) -> None:
    seen: list[Any] = []

    async def note(key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0)
        seen.append((message, request_id.get()))

    async with Hub(context="publisher") as hub:
        hub.add_listener("order", note, **options)
        await serve_two(hub)
    assert sorted(seen) == [("by one", "one"), ("by two", "two")]


async def test_a_listener_may_differ_from_its_hub() -> None:
    seen: list[Any] = []

    async def note(key: Key[Any], message: Any) -> None:
        seen.append(request_id.get())

    async with Hub(context="publisher") as hub:
        hub.add_listener("order", note, context="listener")
        await serve_two(hub)
    assert seen == ["-", "-"]


async def test_async_responders_follow_the_hubs_option() -> None:
    async def answer(key: Key[Any], message: Any) -> str:
        await asyncio.sleep(0)
        return request_id.get()

    async with Hub(context="publisher") as hub:
        hub.respond("who", answer)

        async def ask(name: str) -> Any:
            request_id.set(name)
            return await hub.request("who")

        assert await asyncio.gather(ask("one"), ask("two")) == ["one", "two"]


def test_what_is_no_context_is_refused() -> None:
    with pytest.raises(ValueError, match="context must be 'listener' or 'publisher', not 'request'"):
        Hub(context="request")  # type: ignore[arg-type]


async def test_a_request_id_of_structlog_is_in_the_lines_of_listeners() -> None:
    logger = CapturingLogger()
    log = structlog.wrap_logger(logger, processors=[structlog.contextvars.merge_contextvars])

    async def listen(key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0)
        log.info(message)

    def listen_at_once(key: Key[Any], message: Any) -> None:
        log.info(f"{message}, at once")

    async with Hub(context="publisher") as hub:
        hub.add_listener("order", listen)
        hub.add_listener("order", listen_at_once)
        await serve_two(hub)
    lines = {call.kwargs["event"]: call.kwargs["request"] for call in logger.calls}
    assert lines == {
        "by one": "one",
        "by one, at once": "one",
        "by two": "two",
        "by two, at once": "two",
    }


async def test_a_request_id_of_logging_is_in_the_lines_of_listeners(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class RequestId(logging.Filter):
        """Adds the id to each line, as the documentation of `logging` shows it."""

        def filter(self, record: logging.LogRecord) -> bool:
            record.request = request_id.get()
            return True

    log = logging.getLogger("shop")

    async def listen(key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0)
        log.info(message)

    caplog.handler.addFilter(RequestId())
    with caplog.at_level(logging.INFO, "shop"):
        async with Hub(context="publisher") as hub:
            hub.add_listener("order", listen)
            await serve_two(hub)
    lines = {record.message: getattr(record, "request", None) for record in caplog.records if record.name == "shop"}
    assert lines == {"by one": "one", "by two": "two"}
