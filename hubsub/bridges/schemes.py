"""Finds the adapter for a URL."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from ..errors import UnknownScheme
from .adapter import Adapter


def adapter_for(url: str, **options: Any) -> Adapter:
    """Return an adapter for the scheme of a URL, among those that are installed.

    Args:
        url: The URL.
        **options: As of that adapter.

    Raises:
        UnknownScheme: No adapter has that scheme.
        MissingDriver: The package that the adapter needs is not installed.
    """
    scheme, colon, _ = url.partition("://")
    known = {point.name: point for point in entry_points(group="hubsub.adapters")}
    if not colon or scheme not in known:
        raise UnknownScheme(scheme if colon else "", sorted(known))
    make: Callable[..., Adapter] = known[scheme].load()
    return make(url, **options)
