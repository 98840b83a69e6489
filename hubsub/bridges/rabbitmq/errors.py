"""What RabbitMQ's refusals mean to a bridge: what to do about them, and which of them end a connection."""

from __future__ import annotations

import ssl

from ...errors import BridgeError
from .client import Refused

NOT_FOUND, LOCKED, UNLIKE, FORBIDDEN = 404, 405, 406, 403

_REMEDIES = (
    ("Login was refused", "correct user and password in the URL (rabbitmqctl change_password)"),
    (
        "NOT_ALLOWED",
        "name a virtual host that exists, and that the user may enter (rabbitmqctl set_permissions -p VHOST USER)",
    ),
    ("inequivalent arg 'type' for exchange", "it has to be a topic exchange: name another one, or delete it"),
    ("for exchange", "it was declared in another way: name another exchange, or delete it"),
    ("for queue", "it was declared in another way: choose another name or group, or delete it when it is empty"),
    ("access to", "grant it (rabbitmqctl set_permissions); the documentation of the bridge lists the rights"),
)


def explained(error: Exception) -> Exception:
    """Return the error to raise for one that a connection ended with: it says what to do, if that is known."""
    if isinstance(error, Refused):
        text = str(error)
        remedy = next((remedy for known, remedy in _REMEDIES if known in text), None)
        if remedy is None:
            explanation: Exception = ConnectionResetError(f"RabbitMQ has closed the connection: {text}")
        else:
            explanation = BridgeError(f"RabbitMQ refuses the bridge: {text}; {remedy}")
    elif isinstance(error, ssl.SSLError):
        explanation = ConnectionError(
            f"no TLS connection to RabbitMQ: {error}; amqps:// needs its TLS port, often 5671"
        )
    else:
        return error
    explanation.__cause__ = error
    return explanation


def is_about_one(error: Exception | None) -> bool:
    """True if a channel was closed because of a message that was published over it, and nothing else is wrong."""
    return isinstance(error, Refused) and not error.ends_connection and error.code in (FORBIDDEN, UNLIKE)
