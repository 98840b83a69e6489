from __future__ import annotations

from time import perf_counter
from typing import Any

from pubsub.core import Publisher


def sync(messages: int) -> float:
    def listener(message: Any) -> None:
        pass

    publisher = Publisher()
    publisher.subscribe(listener, "sensor.kitchen")
    began = perf_counter()
    for message in range(messages):
        publisher.sendMessage("sensor.kitchen", message=message)
    return perf_counter() - began
