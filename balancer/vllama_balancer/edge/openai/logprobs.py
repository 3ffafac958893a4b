"""Log probabilities in the shape of chat completions and responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllama_protos.v1 import generation_pb2


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One token that could have been."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """The token that was chosen, and its rivals, best first."""

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
