"""Learns, per model, what cannot be known before a request has run: output length and token size."""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST_OUTPUT_TOKENS = 128.0
"""Expected output before anything has been seen."""
FIRST_BYTES_PER_TOKEN = 4.0
"""Bytes of text in a token before anything has been seen."""
WEIGHT = 0.05
"""Weight of the newest observation: about the last twenty requests count."""
SHORTEST_PROMPT_BYTES = 64
"""Shorter prompts say more about the chat template than about the tokenizer."""


@dataclass(slots=True)
class ModelEstimates:
    """Moving averages of one model."""

    output_tokens: float = FIRST_OUTPUT_TOKENS
    """Generated tokens of a request."""
    bytes_per_token: float = FIRST_BYTES_PER_TOKEN
    """Bytes of prompt text in a token."""

    def finished(self, completion_tokens: int) -> None:
        """Learns from a request that has ended by itself."""
        self.output_tokens += WEIGHT * (completion_tokens - self.output_tokens)

    def tokenized(self, prompt_bytes: int, prompt_tokens: int) -> None:
        """Learns from a prompt whose tokens a worker has counted."""
        if prompt_bytes >= SHORTEST_PROMPT_BYTES and prompt_tokens:
            self.bytes_per_token += WEIGHT * (prompt_bytes / prompt_tokens - self.bytes_per_token)


@dataclass(slots=True)
class Estimates:
    """The averages of every model, by key."""

    _models: dict[str, ModelEstimates] = field(default_factory=dict)

    def of(self, key: str) -> ModelEstimates:
        """Finds a model's averages; fresh ones for a new model."""
        return self._models.setdefault(key, ModelEstimates())
