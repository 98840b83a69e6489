"""Messages in bulk: a thousand are published, then all of them are handled, and so on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any

import aiopubsub

import hubsub

from .harness import Side, compare
from .peers import same_api


def _side(task: Callable[..., Any], library: ModuleType, messages: int, prefixed: bool = False) -> Side:
    return lambda: asyncio.run(task(library, messages, prefixed)) / messages


@compare(at_least=20)
def bulk_through_async_listener() -> tuple[Side, Side]:
    """`Hub.publish` of 1000 messages until one async listener has handled them, against aiopubsub's `Hub.publish` and
    async listener."""
    return _side(same_api.bulk, hubsub, 30_000), _side(same_api.bulk, aiopubsub, 3_000)


@compare(at_least=20)
def bulk_through_async_listener_with_prefix() -> tuple[Side, Side]:
    """`Publisher.publish` of 1000 messages until one async listener has handled them, against aiopubsub's
    `Publisher.publish` and async listener."""
    return _side(same_api.bulk, hubsub, 30_000, True), _side(same_api.bulk, aiopubsub, 3_000, True)


@compare(at_least=2.5)
def bulk_through_queue() -> tuple[Side, Side]:
    """`Hub.publish` of 1000 messages, then `Subscriber.consume` of each, against aiopubsub's `Hub.publish` and
    `Subscriber.consume`."""
    return _side(same_api.queue, hubsub, 30_000), _side(same_api.queue, aiopubsub, 30_000)


@compare(at_least=2.5)
def bulk_through_queue_with_prefix() -> tuple[Side, Side]:
    """`Publisher.publish` of 1000 messages, then `Subscriber.consume` of each, against aiopubsub's `Publisher.publish`
    and `Subscriber.consume`."""
    return _side(same_api.queue, hubsub, 30_000, True), _side(same_api.queue, aiopubsub, 10_000, True)
