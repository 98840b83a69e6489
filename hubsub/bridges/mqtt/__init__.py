"""MQTT 5: devices and hubs understand each other; retained messages, shared subscriptions, persistent sessions."""

from .adapter import MQTTAdapter

__all__ = ["MQTTAdapter"]
