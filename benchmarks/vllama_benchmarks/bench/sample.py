"""One request, and the sample that is its result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One generation."""

    prompt: str
    """The prompt, sent as one user turn."""
    max_tokens: int
    """Tokens to generate; where the API allows it, no fewer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of one request, in the caller's time."""

    seconds: float
    """From sending the request to its last byte."""
    ttft_seconds: float | None = None
    """From sending the request to the first text; None when none came."""
    tokens: int = 0
    """Generated tokens, as the target counted them."""
    prompt_tokens: int = 0
    """Tokens of the prompt, as the target counted them."""
    error: str = ""
    """Why it broke; empty when it was complete."""

    @property
    def tpot_seconds(self) -> float | None:
        """Time per output token after the first; None for fewer than two tokens."""
        if self.ttft_seconds is None or self.tokens < 2:
            return None
        return (self.seconds - self.ttft_seconds) / (self.tokens - 1)
