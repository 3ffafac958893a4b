"""Fields that replies share: identity, log probabilities, token counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllama_protos.v1 import generation_pb2

FINGERPRINT = "fp_ollama"
"""Ollama's constant."""


@dataclass(frozen=True, slots=True)
class ReplyIdentity:
    """Id, time and model, the same in all parts of one reply."""

    prefix: str
    """Prefix by kind of reply: "chatcmpl-", "cmpl-", "resp_"."""
    token: str
    """Random part of the reply's id and of the ids of its parts."""
    created: int
    """Seconds since 1970."""
    model: str
    """The name as it was requested."""

    @property
    def id(self) -> str:
        """Id of the reply."""
        return self.prefix + self.token

    def call_id(self, choice: int, index: int) -> str:
        """Returns an id for a tool call without one; unique within the reply."""
        return f"call_{self.token}_{choice}_{index}"


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One alternative."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen token and its alternatives, best first."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class Logprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the tokens of one chunk or reply."""

    content: list[TokenLogprob]


def to_logprobs(entries: Iterable[generation_pb2.TokenLogprobs]) -> list[TokenLogprob]:
    """Translates entries, one for each token."""
    return [
        TokenLogprob(
            token=entry.token.text,
            logprob=entry.token.logprob,
            bytes=list(entry.token.bytes),
            top_logprobs=[
                TopLogprob(token=rival.text, logprob=rival.logprob, bytes=list(rival.bytes)) for rival in entry.top
            ],
        )
        for entry in entries
    ]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts of chat completions and completions."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


NO_USAGE = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)


def to_usage(usages: Iterable[generation_pb2.Usage]) -> Usage:
    """Returns the sum over choices; they share one prompt, which counts once."""
    counted = list(usages)
    prompt_tokens = max((usage.prompt_tokens for usage in counted), default=0)
    completion_tokens = sum(usage.completion_tokens for usage in counted)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )
