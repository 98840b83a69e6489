"""A log in a file of SQLite, for the processes of one machine."""

from .adapter import SQLiteAdapter

__all__ = ["SQLiteAdapter"]
