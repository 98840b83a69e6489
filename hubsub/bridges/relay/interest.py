"""What a bridge subscribes at its broker: everything incoming, or the part of it that somebody here wants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...hub import Hub
from ...key import Key, meet, overlaps
from ..adapter import Features
from .plan import Plan, uncovered
from .seen import HubBridges, OtherBridge


class Interest:
    """Which patterns are to be subscribed at the broker.

    Subscriptions, listeners, retentions and the other bridges of the hub count; taps do not. A durable broker keeps
    messages whether somebody listens at the moment or not: there, everything incoming is subscribed.

    Args:
        hub: The hub.
        plan: The options.
        features: What the broker can do.
        shared: What the bridges of the hub share.
        owner: The bridge itself.
    """

    def __init__(self, hub: Hub, plan: Plan, features: Features, shared: HubBridges, owner: OtherBridge) -> None:
        self._hub = hub
        self._incoming = plan.incoming
        self.is_lasting = features.durable
        """True if subscriptions at the broker are never given up."""
        self._is_lazy = plan.lazy and not features.durable
        # Reading pauses while nobody is subscribed to what must not be missed.
        self._waits_for_somebody = plan.lazy and features.durable and plan.keeps_position
        self._shared = shared
        self._owner = owner

    def concerns(self, patterns: Iterable[tuple[str, ...]]) -> bool:
        """True if one of these patterns overlaps what is incoming."""
        return any(overlaps(pattern, into) for pattern in patterns for into in self._incoming)

    def wanted(self) -> list[Key[Any]]:
        """The patterns to subscribe at the broker, of which none covers another."""
        if not self._incoming:
            return []
        if not self._is_lazy:
            return uncovered(self._incoming)
        pairs = ((own, into) for own in self._by_somebody() for into in self._incoming)
        return uncovered([both for own, into in pairs if (both := meet(own, into)) is not None])

    def responding(self) -> list[Key[Any]]:
        """What somebody here responds to of what may come in, none covered by another."""
        pairs = ((own, into) for own in self._hub.border.responders() for into in self._incoming)
        return uncovered([both for own, into in pairs if (both := meet(own, into)) is not None])

    @property
    def is_idle(self) -> bool:
        """True while messages are held at the broker because nobody is subscribed to them."""
        return self._waits_for_somebody and not self.concerns(self._by_somebody())

    def _by_somebody(self) -> list[Key[Any]]:
        others = [key for bridge in self._shared.bridges if bridge is not self._owner for key in bridge.outgoing]
        return [*self._hub.border.wanted(), *others]
