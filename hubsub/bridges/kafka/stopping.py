"""Stopping a producer or consumer of the driver, with everything that it has begun, even if no broker answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aiokafka.structs import TopicPartition


async def stop_consumer(consumer: Any, client: Any) -> None:
    """Stop a consumer, even if no broker answers; goes on when it is cancelled.

    Args:
        consumer: The driver's consumer, started or not.
        client: Its client.
    """
    await _finished(_stop(consumer), client)


async def _stop(consumer: Any) -> None:
    try:
        await consumer.stop()
    finally:
        # If leaving the group fails, the driver skips the rest of stopping.
        if (fetcher := consumer._fetcher) is not None:
            tasks = [fetcher._fetch_task, *fetcher._pending_tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def stop_producer(producer: Any) -> None:
    """Stop a producer, even if no broker answers; goes on when it is cancelled."""
    accumulator = producer._message_accumulator

    def give_up() -> None:
        # By itself it would wait until everything is sent, without a broker for ever.
        error = ConnectionError("the producer was stopped")
        for partition in list(accumulator._batches):
            abandon(accumulator, partition, error)
        for batch in list(accumulator._pending_batches):
            _fail(batch, error)
        accumulator._exception = error

    await _finished(producer.stop(), producer.client, give_up)


def abandon(accumulator: Any, partition: TopicPartition, error: Exception) -> None:
    """Fail the batches that wait to be sent to a partition."""
    for batch in accumulator._batches.pop(partition, ()):
        if batch.retry_count:
            # The driver expects this of a batch that it has sent before.
            accumulator._pending_batches.add(batch)
        _fail(batch, error)


def _fail(batch: Any, error: Exception) -> None:
    if not batch._drain_waiter.done():
        # Otherwise asyncio would warn that the error was never retrieved.
        batch._drain_waiter.set_result(None)
    batch.failure(error)


async def _finished(
    stop: Coroutine[Any, Any, None], connections: Any, give_up: Callable[[], None] | None = None
) -> None:
    """Finish stopping a producer or consumer, even if no broker answers; goes on when it is cancelled.

    Args:
        stop: Its coroutine.
        connections: Its client, whose connections are cut when that takes longer than a second.
        give_up: Called then, to end everything else that it waits for.
    """
    await asyncio.shield(asyncio.ensure_future(_until_finished(asyncio.ensure_future(stop), connections, give_up)))


async def _until_finished(stopping: asyncio.Task[None], connections: Any, give_up: Callable[[], None] | None) -> None:
    while not (await asyncio.wait([stopping], timeout=1))[0]:
        if give_up is not None:
            give_up()
        await connections.close()
    # Errors while everything is being given up are of no interest, and the end is not orderly anyway.
    if not stopping.cancelled():
        stopping.exception()
    await connections.close()
