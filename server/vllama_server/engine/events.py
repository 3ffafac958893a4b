"""What an engine answers: one generation's events, in the order Accepted, Chunks, Completed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_server.engine.requests import ToolCall


class FinishReason(Enum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log probability of one token."""

    id: int
    text: str
    bytes: bytes
    logprob: float
    """Natural logarithm; finite, 0 or less."""


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Log probabilities at one position."""

    token: TokenLogprob
    """The generated token."""
    top: tuple[TokenLogprob, ...] = ()
    """The most likely tokens, best first."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """First event: the engine computes the request."""

    prompt_token_ids: Sequence[int]
    """The rendered prompt."""
    cached_prompt_tokens: int = 0
    """Those of them that the prefix cache held."""
    dropped_messages: int = 0
    """Turns that were dropped to make the chat fit."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """New output; never splits a Unicode character."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that became complete."""
    token_ids: Sequence[int] = ()
    """The tokens behind this chunk; they may run ahead of the text."""
    logprobs: Sequence[PositionLogprobs] = ()
    """One entry for each of `token_ids` when asked for."""


@dataclass(frozen=True, slots=True)
class Completed:
    """Last event: the generation is complete."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """Generated tokens, resumed ones included."""
    cached_prompt_tokens: int = 0
    reasoning_tokens: int = 0
    matched_stop: str = ""
    """The stop text that ended it, when one did."""
    queue_seconds: float = 0.0
    """From the engine's taking the request to the start of computing."""
    prefill_seconds: float = 0.0
    """From there to the first token."""
    decode_seconds: float = 0.0
    """From the first token to the last."""


GenerationEvent = Accepted | Chunk | Completed
