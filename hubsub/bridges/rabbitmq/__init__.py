"""RabbitMQ, and other brokers that speak AMQP 0-9-1."""

from .adapter import RabbitMQAdapter

__all__ = ["RabbitMQAdapter"]
