"""What all parts of one reply share: its id, its time, its model."""

from __future__ import annotations

from dataclasses import dataclass

FINGERPRINT = "fp_ollama"
"""Ollama's constant; clients that log it see what they are used to."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a reply is."""

    prefix: str
    """What kind of reply it is: "chatcmpl-", "cmpl-", "resp_"."""
    token: str
    """Makes the reply's id, and the ids of its parts, unlike any other."""
    created: int
    """Seconds since 1970."""
    model: str
    """The name as it was requested."""

    @property
    def id(self) -> str:
        """Id of the reply."""
        return self.prefix + self.token

    def call_id(self, choice: int, index: int) -> str:
        """Makes an id for a tool call whose model gave none; unique within the reply."""
        return f"call_{self.token}_{choice}_{index}"
