"""PostgreSQL: notifications by LISTEN and NOTIFY, and a durable log in tables."""

from .log import PostgresLogAdapter
from .notify import PostgresAdapter

__all__ = ["PostgresAdapter", "PostgresLogAdapter"]
