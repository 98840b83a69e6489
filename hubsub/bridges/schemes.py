"""Which adapter a URL names."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from ..errors import UnknownScheme
from .adapter import Adapter


def adapter_for(url: str) -> Adapter:
    """Return the adapter that a URL names by its scheme, among those which are installed.

    Raises:
        UnknownScheme: There is none.
        MissingDriver: The package that it needs is not installed.
    """
    scheme, colon, _ = url.partition("://")
    known = {point.name: point for point in entry_points(group="hubsub.adapters")}
    if not colon or scheme not in known:
        raise UnknownScheme(scheme if colon else "", sorted(known))
    make: Callable[[str], Adapter] = known[scheme].load()
    return make(url)
