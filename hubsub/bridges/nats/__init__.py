"""NATS: core messages, which reach whoever is subscribed at that moment."""

from .core import NatsAdapter

__all__ = ["NatsAdapter"]
