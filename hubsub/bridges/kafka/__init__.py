"""Apache Kafka."""

from .adapter import KafkaAdapter

__all__ = ["KafkaAdapter"]
