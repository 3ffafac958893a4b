"""Log probabilities of the contract from vLLM's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllama_server.engine.events import PositionLogprobs, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllama_server.vllm_adapter.vocabulary import Vocabulary

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON and the contract cannot carry."""


def positions(
    token_ids: Sequence[int], entries: Sequence[Mapping[int, Any]], top: int, vocabulary: Vocabulary
) -> list[PositionLogprobs]:
    """Pairs each token with its own entry and the `top` likeliest, best first."""
    return [_position(token_id, entry, top, vocabulary) for token_id, entry in zip(token_ids, entries, strict=False)]


def _position(token_id: int, entry: Mapping[int, Any], top: int, vocabulary: Vocabulary) -> PositionLogprobs:
    best = sorted(entry.items(), key=lambda item: item[1].logprob, reverse=True)[:top]
    return PositionLogprobs(
        token=_token(token_id, entry[token_id], vocabulary),
        top=tuple(_token(id_, logprob, vocabulary) for id_, logprob in best),
    )


def _token(token_id: int, entry: Any, vocabulary: Vocabulary) -> TokenLogprob:
    raw = vocabulary.token_bytes(token_id)
    return TokenLogprob(
        id=token_id,
        text=raw.decode("utf-8", errors="replace"),
        bytes=raw,
        logprob=min(max(float(entry.logprob), LOWEST_LOGPROB), 0.0),
    )
