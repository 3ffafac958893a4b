"""Tokens of the simulated engine."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_server.fake_engine import tokens

TEXTS = st.text(st.characters(exclude_categories=("Cs",)))


@given(TEXTS)
def test_a_text_survives_its_tokens(text):
    """Encoding and decoding is the identity."""
    assert tokens.decode(tokens.to_ids(tokens.encode(text))) == text


@given(TEXTS)
def test_a_token_is_four_bytes(text):
    """The length of a prompt in tokens is that of its UTF-8 bytes over four, rounded up."""
    assert len(tokens.to_ids(tokens.encode(text))) == -(-len(text.encode()) // 4)


@given(st.integers(0, 0xFFFF), st.integers(0, tokens.OUTPUT_LIMIT - 1))
def test_a_generated_token_survives_its_id(hash16, index):
    """An id alone gives back the text of a generated token."""
    assert tokens.decode([tokens.output_id(hash16, index)]) == f" {hash16:04x}.{index}"


@given(TEXTS, st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, tokens.OUTPUT_LIMIT - 1))))
def test_prompt_and_output_mix(text, generated):
    """A conversation's ids, prompts and answers in a row, are its text."""
    ids = list(tokens.to_ids(tokens.encode(text)))
    ids += [tokens.output_id(*one) for one in generated]
    assert tokens.decode(ids) == text + "".join(tokens.output_text(*one) for one in generated)


def test_the_hash_is_that_of_the_text():
    """The prompt determines the output of the simulated engine."""
    assert f"{tokens.prompt_hash(tokens.encode('hello')):04x}" == sha256(b"hello").hexdigest()[:4]


def test_an_id_beyond_32_bits_is_refused():
    """The wire cannot carry it, but callers in process can."""
    with pytest.raises(ValueError, match="outside"):
        tokens.to_bytes([1 << 32])
