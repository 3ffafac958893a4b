"""The replies: the events of a generation and the results of the other calls.

A stream is one `Started`, then `Delta`s, then exactly one `Finished`; `Completion` is the sum of
such a stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vllama_clients.messages import ToolCall


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
    """The token's id."""
    text: str
    """The token's text; U+FFFD stands for bytes that are not a whole character."""
    bytes: bytes
    """The token's own bytes."""
    logprob: float
    """Natural logarithm of its probability; 0 or less."""


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Log probabilities at one position."""

    token: TokenLogprob
    """The generated token."""
    top: Sequence[TokenLogprob] = ()
    """The most likely tokens, best first."""


@dataclass(frozen=True, slots=True)
class Started:
    """The engine has accepted the request."""

    worker: str
    """Name of the worker that answers."""
    boot_id: str
    """Random id of the worker's process, new at every start."""
    prompt_tokens: int
    """Tokens of the rendered prompt."""
    cached_prompt_tokens: int = 0
    """Those of them that the prefix cache already held."""
    prompt_token_ids: Sequence[int] = ()
    """The rendered prompt, when the request asked for it."""
    dropped_messages: int = 0
    """Turns that were dropped to make the chat fit."""


@dataclass(frozen=True, slots=True)
class Delta:
    """New output; never splits a Unicode character."""

    text: str = ""
    """New answer text."""
    thinking: str = ""
    """New reasoning text."""
    tool_calls: Sequence[ToolCall] = ()
    """Calls that became complete."""
    token_ids: Sequence[int] = ()
    """The tokens behind this delta; they may run ahead of the text."""
    logprobs: Sequence[PositionLogprobs] = ()
    """One entry for each of `token_ids`, when the request asked for them."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a generation."""

    prompt_tokens: int = 0
    """Tokens of the prompt, cached ones included."""
    cached_prompt_tokens: int = 0
    """Prompt tokens that the prefix cache held."""
    completion_tokens: int = 0
    """Generated tokens."""
    reasoning_tokens: int = 0
    """Those of them that were reasoning."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a generation went, in seconds; the four do not overlap."""

    queue_seconds: float = 0.0
    """Waiting in the balancer and for a place in the engine's batch."""
    load_seconds: float = 0.0
    """Waiting for the model to load."""
    prompt_seconds: float = 0.0
    """From the start of computing to the first token."""
    decode_seconds: float = 0.0
    """From the first token to the last."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The generation is complete."""

    reason: FinishReason
    """Why it ended."""
    usage: Usage = Usage()
    """Tokens counted by the engine."""
    timings: Timings = Timings()
    """Where the time went."""
    matched_stop: str = ""
    """The stop text that ended it, when one did."""
    migrations: int = 0
    """How many times the stream moved to another worker."""


Event = Started | Delta | Finished


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generation."""

    text: str
    """The answer."""
    thinking: str
    """The reasoning before it; empty when there was none."""
    tool_calls: tuple[ToolCall, ...]
    """The calls that the model made."""
    token_ids: tuple[int, ...]
    """The generated tokens."""
    logprobs: tuple[PositionLogprobs, ...]
    """One entry for each token, when the request asked for them."""
    started: Started
    """The stream's first event."""
    finished: Finished
    """The stream's last event."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vector of one input."""

    values: Sequence[float]
    """The numbers, float32: as many as the model's embedding length, or as `dimensions` asked for."""
    prompt_tokens: int
    """Tokens of the input, after truncation."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenized input."""

    token_ids: Sequence[int]
    """The ids, special tokens included."""
    text: str
    """The text that was tokenized; for a chat, as rendered."""


def completion_of(events: Iterable[Event]) -> Completion:
    """Adds up the events of one whole stream."""
    started, finished = Started("", "", 0), Finished(FinishReason.ABORTED)
    deltas = []
    for event in events:
        match event:
            case Started():
                started = event
            case Delta():
                deltas.append(event)
            case Finished():
                finished = event
    return Completion(
        text="".join(delta.text for delta in deltas),
        thinking="".join(delta.thinking for delta in deltas),
        tool_calls=tuple(call for delta in deltas for call in delta.tool_calls),
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
        started=started,
        finished=finished,
    )
