"""Redis: Pub/Sub, and Streams."""

from .pubsub import RedisAdapter
from .stream import RedisStreamAdapter

__all__ = ["RedisAdapter", "RedisStreamAdapter"]
