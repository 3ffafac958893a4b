"""Text of a token stream: incremental decoding with stop texts, as a pure function of the tokens.

vLLM can do this itself, but then a stream that moves to another worker could not be continued
exactly: a half-decoded character or a half-matched stop text lives only in the first worker.
Here the state after n tokens depends on those n tokens alone, so replaying delivered tokens
restores it to the letter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm.v1.engine.detokenizer import IncrementalDetokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How tokens become text; the field names are those that vLLM's detokenizer reads."""

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


class TokenText:
    """Turns tokens into text, one at a time, and watches for stop texts."""

    def __init__(self, tokenizer: Any, request_id: str, prompt_token_ids: list[int], options: DecodeOptions) -> None:
        self._stops = tuple(options.stop)
        self._sent = 0
        self._detokenizer = IncrementalDetokenizer.from_new_request(
            tokenizer, _DetokenizerRequest(request_id, options, prompt_token_ids)
        )

    def add(self, token_id: int, *, ends: bool = False, is_stop_token: bool = False) -> tuple[str, str]:
        """Takes the next token and returns the text that became certain and the stop text that it completed.

        `ends` says that no token follows; a stop token itself has no text.
        """
        matched = self._detokenizer.update([token_id], is_stop_token) or ""
        return self._release(everything=ends or bool(matched)), matched

    def flush(self) -> str:
        """Returns what was held back, for a stream that ends without another token."""
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
    """Counts the characters at the end of `text` that may turn out to begin a stop text."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
