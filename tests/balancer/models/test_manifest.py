"""Manifests: presets are JSON on disk and messages in memory, and nothing is lost between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_balancer.models.manifest import StoredModel, decode_manifest, encode_manifest
from vllama_balancer.preset_options import option_values, to_options

STORE = Path("/store")
RECORD: dict[str, Any] = {
    "name": "m:a",
    "digest": "0" * 64,
    "weights_digest": "a" * 64,
    "weights": "weights/w",
    "size_bytes": 10,
    "source": "test",
    "modified_at": "2026-01-01T00:00:00+00:00",
    "messages": [],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=5,
)


def decoded(**keys: Any) -> StoredModel:
    """A manifest with these keys."""
    return decode_manifest(json.dumps({**RECORD, **keys}).encode(), STORE)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON))
def test_option_values_come_back_as_they_were(values: dict[str, Any]) -> None:
    """Types and order included: digests are made of them."""
    assert json.dumps(option_values(to_options(values))) == json.dumps(values)


def test_turns_become_messages() -> None:
    """Ollama's JSON of a turn is understood, pictures and calls included."""
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call], "images": ["aGk="]}
    (message,) = decoded(messages=[turn]).presets.messages
    assert message.role == "assistant" and message.images[0].data == b"hi"
    assert (message.tool_calls[0].name, message.tool_calls[0].arguments_json) == ("f", '{"x": 1}')


def test_presets_are_written_by_ollamas_names() -> None:
    """The keys are a file format."""
    keys = {
        "system": "Be brief.",
        "parameters": {"top_k": 3, "temperature": 0.0, "stop": ["a"], "x": None},
        "messages": [{"role": "user", "content": "hi"}],
        "template": "{{ messages }}",
    }
    record = json.loads(encode_manifest(decoded(**keys), STORE))
    assert {key: record[key] for key in keys} == keys


@pytest.mark.parametrize("keys", [{"parameters": []}, {"messages": ["hi"]}, {"messages": [{"tool_calls": [{}]}]}])
def test_presets_of_another_shape_are_refused(keys: dict[str, Any]) -> None:
    """The store leaves such a manifest out."""
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        decoded(**keys)
