"""Whole before notified: who is to be notified of a change is collected, and called when the change is complete.

Whoever is notified may do anything, to what has changed as well: publish to it, close it, remove it. So no structure
calls out while it is being changed.
"""

from __future__ import annotations

from collections.abc import Callable

Notices = list[Callable[[], object]]


def notify(notices: Notices) -> None:
    """Call each of them; what one raises is raised when all have been called."""
    raised: BaseException | None = None
    for notice in notices:
        try:
            notice()
        except BaseException as error:
            if raised is None or isinstance(raised, Exception):
                raised = error
    if raised is not None:
        raise raised
