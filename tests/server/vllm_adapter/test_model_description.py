"""The table finds each family's parsers (test_families.py: from published templates), and vLLM has what it names.

The chat template is found where the model has it, and given to vLLM where it need not look for another.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

from vllama_balancer.models.table import ModelTable
from vllama_server.vllm_adapter.engine_config import EngineConfig
from vllama_server.vllm_adapter.model_description import (
    Traits,
    chat_template,
    default_sampling,
    fill_in_the_middle,
    load_families,
    only_template,
    traits_of,
)

if TYPE_CHECKING:
    from pathlib import Path


QWEN_TEMPLATE = "{%- if tools %}<tool_call>\n{...}</tool_call>{% endif %}"
LLAMA_TEMPLATE = "{%- if tools %}Environment: ipython{% endif %}"


@pytest.mark.parametrize(
    ("model_type", "name", "template", "tools", "reasoning"),
    [
        ("qwen2", "Qwen/Qwen2.5-7B-Instruct", QWEN_TEMPLATE, "hermes", ""),
        ("qwen2", "Qwen/Qwen2.5-Coder-7B-Instruct", QWEN_TEMPLATE, "hermes", ""),
        ("qwen3", "Qwen/Qwen3-8B", QWEN_TEMPLATE, "hermes", "qwen3"),
        ("qwen3", "Qwen/Qwen3-4B-Instruct-2507", QWEN_TEMPLATE, "hermes", ""),
        ("qwen3_moe", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "", "qwen3_coder", ""),
        ("qwen2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "", "", "deepseek_r1"),
        ("llama", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "", "", "deepseek_r1"),
        ("llama", "meta-llama/Llama-3.1-8B-Instruct", LLAMA_TEMPLATE, "llama3_json", ""),
        ("llama", "NousResearch/Hermes-3-Llama-3.1-8B", QWEN_TEMPLATE, "hermes", ""),
        ("llama", "HuggingFaceTB/SmolLM2-135M-Instruct", "{{ message['content'] }}", "", ""),
        ("mistral", "mistralai/Mistral-7B-Instruct-v0.3", "[TOOL_CALLS]", "mistral", ""),
        ("mistral", "mistralai/Mistral-7B-Instruct-v0.1", "[INST]", "", ""),
        ("gpt_oss", "openai/gpt-oss-20b", "", "openai", "openai_gptoss"),
        ("gemma2", "google/gemma-2-2b-it", "", "", ""),
    ],
)
def test_each_family_gets_its_parsers(model_type: str, name: str, template: str, tools: str, reasoning: str) -> None:
    """By type, name and template, the first entry that fits."""
    traits = traits_of(load_families(), model_type, [name], template, {})
    assert (traits.tool_parser, traits.reasoning_parser) == (tools, reasoning)


def test_overrides_beat_the_table_and_none_turns_off() -> None:
    """The operator's arguments count."""
    families = load_families()
    overrides = {"tool_parser": "none", "reasoning_parser": "deepseek_r1"}
    assert traits_of(families, "qwen3", ["Qwen/Qwen3-8B"], QWEN_TEMPLATE, overrides) == Traits("", "deepseek_r1", "")


def test_every_parser_in_the_table_exists() -> None:
    """A name that vLLM does not have would fail each start of that family."""
    families = load_families()
    tools = {family.traits.tool_parser for family in families} - {""}
    reasoning = {family.traits.reasoning_parser for family in families} - {""}
    assert tools <= set(ToolParserManager.list_registered())
    assert reasoning <= set(ReasoningParserManager.list_registered())


def test_the_table_of_known_models_names_parsers_that_exist() -> None:
    """What people can pull by name is read by a parser of the installed vLLM."""
    models = list(ModelTable.load())
    assert {model.parser for model in models} - {""} <= set(ToolParserManager.list_registered())
    assert {model.reasoning for model in models} - {""} <= set(ReasoningParserManager.list_registered())


@pytest.mark.parametrize(
    ("name", "model_type", "prompt"),
    [
        ("qwen2.5-coder", "qwen2", "<|fim_prefix|>def f({x}):<|fim_suffix|>return {y}<|fim_middle|>"),
        ("codellama-7b", "llama", "<PRE> def f({x}): <SUF>return {y} <MID>"),
        ("deepseek-coder-1.3b", "llama", "<｜fim▁begin｜>def f({x}):<｜fim▁hole｜>return {y}<｜fim▁end｜>"),
        ("starcoder2-3b", "starcoder2", "<fim_prefix>def f({x}):<fim_suffix>return {y}<fim_middle>"),
        ("codestral-22b", "mistral", "[SUFFIX]return {y}[PREFIX]def f({x}):"),
    ],
)
def test_gaps_are_written_as_each_family_was_taught(name: str, model_type: str, prompt: str) -> None:
    """Order and markers differ; braces in the code mean nothing."""
    traits = traits_of(load_families(), model_type, [name], "", {})
    assert fill_in_the_middle(traits.fim, "def f({x}):", "return {y}") == prompt


def test_every_gap_template_takes_both_sides() -> None:
    """Prefix and suffix each occur once."""
    written = [family.traits.fim for family in load_families() if family.traits.fim]
    assert written
    for fim in written:
        assert (fim.count("{prefix}"), fim.count("{suffix}")) == (1, 1), fim


OWN = SimpleNamespace(chat_template="{{ messages }}")
SEVERAL = SimpleNamespace(chat_template={"default": "{{ plain }}", "tool_use": "{{ tools }}"})
NONE = SimpleNamespace(chat_template=None)
ENGINE_CONFIG = EngineConfig("m")


@pytest.mark.parametrize(
    ("tokenizer", "template"),
    [(OWN, "{{ messages }}"), (SEVERAL, "{{ tools }}"), (NONE, ""), (SimpleNamespace(), "")],
    ids=["one", "several", "none", "a tokenizer of another kind"],
)
def test_the_models_template_is_found(tokenizer: SimpleNamespace, template: str) -> None:
    """The one for tools, if there are several."""
    assert chat_template(tokenizer, ENGINE_CONFIG) == template


def test_the_only_template_is_given() -> None:
    """A model of text alone has no other."""
    assert only_template(OWN, ENGINE_CONFIG, is_multimodal=False) == "{{ messages }}"


@pytest.mark.parametrize(
    ("tokenizer", "is_multimodal"),
    [(SEVERAL, False), (NONE, False), (OWN, True)],
    ids=["by the chat's tools", "by the model's type", "by the processor"],
)
def test_where_vllm_chooses_it_is_given_none(tokenizer: SimpleNamespace, is_multimodal: bool) -> None:
    """Its own choice may be a better one."""
    assert only_template(tokenizer, ENGINE_CONFIG, is_multimodal=is_multimodal) is None


def test_the_operators_template_beats_all(tmp_path: Path) -> None:
    """Whatever the model has."""
    path = tmp_path / "mine.jinja"
    path.write_text("{{ mine }}")
    engine_config = EngineConfig("m", engine_args={"chat_template": str(path)})
    assert chat_template(SEVERAL, engine_config) == "{{ mine }}"
    assert only_template(SEVERAL, engine_config, is_multimodal=True) == "{{ mine }}"


def test_default_sampling_keeps_unset_apart_from_zero() -> None:
    """A model whose own temperature is 0 is greedy; one without a top_p has none."""
    sampling = default_sampling({"temperature": 0.0, "top_k": 50, "bos_token_id": 1})
    assert sampling.HasField("temperature")
    assert (sampling.temperature, sampling.top_k) == (0.0, 50)
    assert not sampling.HasField("top_p")
