"""Whole before notified: the callables to notify of a change are collected, and called when the change is complete.

Such a callable may do anything, also to what has changed: publish to it, close it, remove it. So no structure calls
out while it is being changed.
"""

from __future__ import annotations

from collections.abc import Callable

Notices = list[Callable[[], object]]


def notify(notices: Notices) -> None:
    """Call each of them; an error that one raises is raised after all have been called."""
    raised: BaseException | None = None
    for notice in notices:
        try:
            notice()
        except BaseException as error:
            if raised is None or isinstance(raised, Exception):
                raised = error
    if raised is not None:
        raise raised
