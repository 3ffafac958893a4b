"""Residency of models that are never unloaded: what keep_alive means for a static fleet."""

from __future__ import annotations


class Pinned:
    """Answers every wish and changes nothing, as `gateway.Residency` allows for pinned models."""

    async def load(self, name: str, keep_alive_seconds: float | None) -> None:
        """Does nothing: the model is loaded, or its first request waits for it."""

    async def unload(self, name: str) -> None:
        """Does nothing: the model stays."""

    def keep(self, name: str, keep_alive_seconds: float) -> None:
        """Does nothing: the model stays."""
