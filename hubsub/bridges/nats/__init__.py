"""NATS: core messages, which reach whoever is subscribed at that moment, and JetStream, a durable log."""

from .core import NatsAdapter
from .jetstream import JetStreamAdapter

__all__ = ["JetStreamAdapter", "NatsAdapter"]
