"""Presets fill what a request leaves open."""

from __future__ import annotations

from typing import Any

import pytest

from vllama_balancer.edge.wire.presets import apply_presets
from vllama_balancer.fake_gateway import presets
from vllama_protos.v1 import generation_pb2


def _generation(**sampling: Any) -> generation_pb2.GenerateRequest:
    chat = generation_pb2.Chat(messages=[generation_pb2.Message(role="user", content="hi")])
    return generation_pb2.GenerateRequest(chat=chat, sampling=generation_pb2.Sampling(**sampling))


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("temperature", 0.25, "temperature", 0.25),
        ("top_k", 7, "top_k", 7),
        ("repeat_penalty", 1.5, "repetition_penalty", 1.5),
        ("num_predict", 10**30, "max_tokens", 2**31 - 1),
        ("seed", -5, "seed", -1),
        ("min_p", 1, "min_p", 1.0),
    ],
)
def test_a_preset_fills_what_is_unset(name: str, value: object, field: str, expected: object) -> None:
    """Each option reaches the field that it stands for."""
    generation = _generation()
    apply_presets(presets(**{name: value}), generation)
    assert getattr(generation.sampling, field) == expected


def test_a_request_wins_over_a_preset() -> None:
    """What the request sets stays, zero included."""
    generation = _generation(temperature=0.0, stop=["END"])
    apply_presets(presets(temperature=0.8, stop="Arr"), generation)
    assert (generation.sampling.temperature, list(generation.sampling.stop)) == (0.0, ["END"])


def test_a_bare_stop_text_is_one_text() -> None:
    """A preset stop need not be a list."""
    generation = _generation()
    apply_presets(presets(stop="Arr"), generation)
    assert list(generation.sampling.stop) == ["Arr"]


def test_a_prompt_without_turns_gets_no_system_text() -> None:
    """Presets do not turn a bare prompt into a chat."""
    generation = generation_pb2.GenerateRequest(prompt="def f(", suffix=")")
    apply_presets(presets("Arr"), generation)
    assert generation.WhichOneof("input") == "prompt"


def test_turns_and_template_of_an_alias_reach_every_dialect() -> None:
    """System text first, then the alias's turns, then the conversation."""
    generation = _generation()
    preset = generation_pb2.Message(role="assistant", content="Ahoy")
    apply_presets(presets("Arr", messages=[preset], template="{{ messages }}"), generation)
    assert [turn.content for turn in generation.chat.messages] == ["Arr", "Ahoy", "hi"]
    assert generation.chat.template == "{{ messages }}"
    assert generation.chat.template_is_stored


def test_a_conversation_keeps_its_own_system_text() -> None:
    """Presets add no second one."""
    generation = _generation()
    generation.chat.messages[0].role = "system"
    apply_presets(presets("Arr"), generation)
    assert [turn.content for turn in generation.chat.messages] == ["hi"]
