"""Redis: Pub/Sub, also of a Redis Cluster, and Streams."""

from .cluster import RedisClusterAdapter
from .pubsub import RedisAdapter
from .stream import RedisStreamAdapter

__all__ = ["RedisAdapter", "RedisClusterAdapter", "RedisStreamAdapter"]
