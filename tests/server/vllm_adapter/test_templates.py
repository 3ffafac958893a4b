"""The chat template is found where the model has it, and given to vLLM where it need not look for another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from vllama_server.vllm_adapter.profile import EngineProfile
from vllama_server.vllm_adapter.templates import chat_template, only_template

if TYPE_CHECKING:
    from pathlib import Path

OWN = SimpleNamespace(chat_template="{{ messages }}")
SEVERAL = SimpleNamespace(chat_template={"default": "{{ plain }}", "tool_use": "{{ tools }}"})
NONE = SimpleNamespace(chat_template=None)
PROFILE = EngineProfile("m")


@pytest.mark.parametrize(
    ("tokenizer", "template"),
    [(OWN, "{{ messages }}"), (SEVERAL, "{{ tools }}"), (NONE, ""), (SimpleNamespace(), "")],
    ids=["one", "several", "none", "a tokenizer of another kind"],
)
def test_the_models_template_is_found(tokenizer: SimpleNamespace, template: str) -> None:
    """The one that knows tools, where there are several."""
    assert chat_template(tokenizer, PROFILE) == template


def test_the_only_template_is_given() -> None:
    """A model of text alone has no other."""
    assert only_template(OWN, PROFILE, is_multimodal=False) == "{{ messages }}"


@pytest.mark.parametrize(
    ("tokenizer", "is_multimodal"),
    [(SEVERAL, False), (NONE, False), (OWN, True)],
    ids=["by the chat's tools", "by the model's type", "by the processor"],
)
def test_where_vllm_chooses_it_is_given_none(tokenizer: SimpleNamespace, is_multimodal: bool) -> None:
    """Its own choice may be a better one."""
    assert only_template(tokenizer, PROFILE, is_multimodal=is_multimodal) is None


def test_the_operators_template_beats_all(tmp_path: Path) -> None:
    """Whatever the model has."""
    path = tmp_path / "mine.jinja"
    path.write_text("{{ mine }}")
    profile = EngineProfile("m", engine_args={"chat_template": str(path)})
    assert chat_template(SEVERAL, profile) == "{{ mine }}"
    assert only_template(SEVERAL, profile, is_multimodal=True) == "{{ mine }}"
