"""Text, bytes and log probabilities of tokens.

The Detokenizer decodes incrementally and watches for stop texts, as a pure function of the tokens. vLLM can do this
itself, but then a stream that moves to another worker could not be continued exactly: a half-decoded character or a
half-matched stop text exists only in the first worker. Here the state after n tokens depends on those n tokens alone,
so replaying delivered tokens restores it exactly.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from vllama_protos.v1 import generation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options of decoding; vLLM's detokenizer reads these field names."""

    stop: Sequence[str] = ()
    min_tokens: int = 0
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False


@dataclass(frozen=True, slots=True)
class _DetokenizerRequest:
    """The part of vLLM's EngineCoreRequest that its detokenizer reads."""

    request_id: str
    sampling_params: DecodeOptions
    prompt_token_ids: list[int]
    prompt_embeds: None = None


class Detokenizer:
    """Decodes tokens one at a time, and watches for stop texts."""

    def __init__(self, tokenizer: Any, request_id: str, prompt_token_ids: list[int], options: DecodeOptions) -> None:
        self._stops = tuple(options.stop)
        self._sent = 0
        self._detokenizer = IncrementalDetokenizer.from_new_request(
            tokenizer, _DetokenizerRequest(request_id, options, prompt_token_ids)
        )

    def add(self, token_id: int, *, ends: bool = False, is_stop_token: bool = False) -> tuple[str, str]:
        """Takes the next token; returns the text that became certain and the stop text that it completed.

        `ends` means that no token follows. A stop token itself has no text.
        """
        matched = self._detokenizer.update([token_id], is_stop_token) or ""
        return self._release(everything=ends or bool(matched)), matched

    def flush(self) -> str:
        """Returns the text that was held back, for a stream that ends without another token."""
        return self._release(everything=True)

    def _release(self, *, everything: bool) -> str:
        text: str = self._detokenizer.output_text
        end = len(text) if everything else len(text) - _held_back(text, self._stops)
        if end <= self._sent:
            return ""
        released = text[self._sent : end]
        self._sent = end
        return released


def _held_back(text: str, stops: Sequence[str]) -> int:
    """Returns how many characters at the end of `text` may begin a stop text."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest


_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_BOUNDARY = "\u2581"
_REPLACEMENT = "\ufffd"


class Vocabulary:
    """The bytes of a tokenizer's tokens.

    Byte-level tokenizers (GPT-2's kind) spell each byte as one printable character, sentencepiece
    ones write "▁" for a space and "<0x0A>" for a lone byte. Decoding a single id would lose both.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._size = len(tokenizer)
        self._special = frozenset(getattr(tokenizer, "all_special_ids", ()))
        self._is_byte_level = _is_byte_level(tokenizer)

    def __contains__(self, token_id: int) -> bool:
        return 0 <= token_id < self._size

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the token's own bytes; a lone byte of a character stays that byte."""
        piece = self._tokenizer.convert_ids_to_tokens([token_id])[0]
        if piece is not None and _REPLACEMENT in piece:
            # Mistral's tokenizers return the bytes of a part of a character only without special tokens.
            piece = next(iter(self._tokenizer.convert_ids_to_tokens([token_id], skip_special_tokens=True)), piece)
        if piece is None:
            return b""
        if isinstance(piece, bytes):
            return piece
        if token_id in self._special:
            return str(piece).encode()
        if self._is_byte_level:
            return _byte_level_bytes(piece)
        lone_byte = _BYTE_TOKEN.fullmatch(piece)
        if lone_byte:
            return bytes([int(lone_byte[1], 16)])
        return str(piece).replace(_WORD_BOUNDARY, " ").encode()


def _is_byte_level(tokenizer: Any) -> bool:
    """Returns whether the vocabulary has the character that stands for a space in byte-level ones."""
    vocabulary = tokenizer.get_vocab()
    return "\u0120" in vocabulary or "\u0120the" in vocabulary


def _byte_level_bytes(piece: str) -> bytes:
    table = _byte_of_character()
    if all(character in table for character in piece):
        return bytes(table[character] for character in piece)
    return piece.encode()  # an added token, stored as plain text


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table


LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity and for what is no number, which JSON cannot carry."""


def token_logprobs(
    token_ids: Sequence[int], entries: Sequence[Mapping[int, Any]], top: int, vocabulary: Vocabulary
) -> list[pb.TokenLogprobs]:
    """Pairs each token with its own entry and the `top` likeliest, best first."""
    return [_logprobs_at(token_id, entry, top, vocabulary) for token_id, entry in zip(token_ids, entries, strict=False)]


def _logprobs_at(token_id: int, entry: Mapping[int, Any], top: int, vocabulary: Vocabulary) -> pb.TokenLogprobs:
    best = sorted(entry.items(), key=lambda item: _finite(item[1].logprob), reverse=True)[:top]
    return pb.TokenLogprobs(
        token=_token_logprob(token_id, entry[token_id], vocabulary),
        top=[_token_logprob(id_, logprob, vocabulary) for id_, logprob in best],
    )


def _token_logprob(token_id: int, entry: Any, vocabulary: Vocabulary) -> pb.TokenLogprob:
    raw = vocabulary.token_bytes(token_id)
    return pb.TokenLogprob(
        id=token_id,
        text=raw.decode("utf-8", errors="replace"),
        bytes=raw,
        logprob=_finite(entry.logprob),
    )


def _finite(logprob: float) -> float:
    return LOWEST_LOGPROB if math.isnan(logprob) else min(max(float(logprob), LOWEST_LOGPROB), 0.0)
