"""PostgreSQL: LISTEN and NOTIFY."""

from .notify import PostgresAdapter

__all__ = ["PostgresAdapter"]
