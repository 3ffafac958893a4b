"""Text is a pure function of tokens: stop texts and split characters come out right at every border."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoTokenizer

from vllama_server.vllm_adapter.detokenizer import DecodeOptions, Detokenizer, Vocabulary, token_logprobs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tokenizer(model_directory: Path) -> Any:
    """The embedded model's tokenizer."""
    return AutoTokenizer.from_pretrained(model_directory)


def feed(text: Detokenizer, token_ids: list[int]) -> tuple[list[str], str]:
    """Feeds tokens until a stop text is complete; returns the pieces and that stop text."""
    pieces = []
    for position, token_id in enumerate(token_ids):
        piece, matched = text.add(token_id, ends=position == len(token_ids) - 1)
        pieces.append(piece)
        if matched:
            return pieces, matched
    return pieces, ""


@pytest.mark.parametrize(
    "given", ["Plain words.", "naïve café — 日本語 🙂🙃 ñ", "👩‍👩‍👧‍👦 family", "\n\n  indented\ttext"]
)
def test_pieces_make_the_whole_and_split_no_character(tokenizer: Any, given: str) -> None:
    """Tokens end in the middle of characters; pieces never do."""
    pieces, _ = feed(Detokenizer(tokenizer, "r", [1], DecodeOptions()), tokenizer.encode(given))
    assert "".join(pieces) == given
    assert not any("\ufffd" in piece for piece in pieces)


def test_what_may_begin_a_stop_text_waits(tokenizer: Any) -> None:
    """A piece is held back while it could still become a stop text, and comes when it does not."""
    text = Detokenizer(tokenizer, "r", [1], DecodeOptions(stop=["world peace"]))
    pieces, matched = feed(text, tokenizer.encode("hello world, peace"))
    assert matched == ""
    assert pieces[0] == "hello"
    assert pieces[1] == " "
    assert "".join(pieces) == "hello world, peace"


def test_nothing_waits_without_need(tokenizer: Any) -> None:
    """Text that cannot begin a stop text is not delayed, however long the stop text is."""
    text = Detokenizer(tokenizer, "r", [1], DecodeOptions(stop=["### End of the conversation ###"]))
    pieces, _ = feed(text, tokenizer.encode("one two three"))
    assert pieces == ["one", " two", " three"]


def test_the_earliest_stop_text_counts_and_is_left_out(tokenizer: Any) -> None:
    """Of several, the one that is complete first ends the text."""
    text = Detokenizer(tokenizer, "r", [1], DecodeOptions(stop=["four", "two th"]))
    pieces, matched = feed(text, tokenizer.encode("one two three four"))
    assert ("".join(pieces), matched) == ("one ", "two th")


def test_a_stop_text_counts_only_after_min_tokens(tokenizer: Any) -> None:
    """Earlier ones are text like any other."""
    options = DecodeOptions(stop=["two"], min_tokens=3)
    pieces, matched = feed(Detokenizer(tokenizer, "r", [1], options), tokenizer.encode("one two three two"))
    assert ("".join(pieces), matched) == ("one two three ", "two")


@pytest.mark.parametrize("stop", [(), ("🙃 n", "three"), ("é — 日x",)])
def test_replayed_tokens_restore_the_state_to_the_letter(tokenizer: Any, stop: tuple[str, ...]) -> None:
    """Cut anywhere: what a second Detokenizer says after the replay is what the first would have said."""
    token_ids = tokenizer.encode("naïve café — 日本語 🙂🙃 ñandú, one two three")
    pieces, _ = feed(Detokenizer(tokenizer, "r", [1], DecodeOptions(stop=stop)), token_ids)
    for cut in range(1, len(pieces)):
        resumed = Detokenizer(tokenizer, "r", [1], DecodeOptions(stop=stop))
        for token_id in token_ids[:cut]:
            resumed.add(token_id)
        assert feed(resumed, token_ids[cut:])[0] == pieces[cut:]


@pytest.mark.parametrize("given", [math.nan, -math.inf, math.inf, -1.5, 0.25])
def test_log_probabilities_are_finite_and_never_positive(tokenizer: Any, given: float) -> None:
    """A model that overflows gives numbers that JSON does not have."""
    entry = {7: SimpleNamespace(logprob=given), 8: SimpleNamespace(logprob=-0.5)}
    (position,) = token_logprobs([7], [entry], 2, Vocabulary(tokenizer))
    values = [position.token.logprob, *(item.logprob for item in position.top)]
    assert all(math.isfinite(value) and value <= 0 for value in values)
    assert [item.logprob for item in position.top] == sorted(values[1:], reverse=True)
