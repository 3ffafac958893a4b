"""Remembers who had to leave for another model, and notices who is asked for again at once.

A model that is wanted back sooner than it could have been loaded was sent away too early: two
programs take turns, and each switch costs both of them a load. So the one that comes back stays for
a while, idle or not (`decisions.py` says how long). A switch that lasts costs nothing.
"""

from __future__ import annotations


class Comebacks:
    """Models that had to leave, and until when it is early to want them back."""

    def __init__(self) -> None:
        # Until when asking again counts as a comeback, by key; as many as there are models.
        self._early_until: dict[str, float] = {}

    def sent_away(self, key: str, now: float, load_seconds: float) -> None:
        """Notes that a model leaves because another one wants its place."""
        self._early_until[key] = now + load_seconds

    def is_back(self, key: str, now: float) -> bool:
        """Tells whether a model that is asked for now had to leave less than a load ago, and forgets that it had."""
        early_until = self._early_until.pop(key, None)
        return early_until is not None and now <= early_until
