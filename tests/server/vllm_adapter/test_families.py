"""The families' parsers, chosen from what the makers publish: type and repository of the model, and its template.

The templates lie beside the repository, as each is under its model's licence: VLLAMA_TEMPLATES names another folder.
Of a family without one the choice is made without any, so it may not depend on it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from vllama_balancer.models.table import KnownModel, ModelTable
from vllama_protos.v1 import worker_pb2
from vllama_server.vllm_adapter.model_description import capabilities_of, load_families, traits_of

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("VLLAMA_TEMPLATES") or ROOT.parent / "shared" / "templates")
PUBLISHED = {
    ("qwen2.5", "qwen2"): "Qwen-Qwen2.5-7B-Instruct",
    ("qwen3", "qwen3"): "Qwen-Qwen3-0.6B",
    ("qwen3", "qwen3_moe"): "Qwen-Qwen3-0.6B",
    ("smollm3", "smollm3"): "HuggingFaceTB-SmolLM3-3B",
    ("llama3.1", "llama"): "meta-llama-Llama-3.1-8B-Instruct",
    ("llama3.2", "llama"): "meta-llama-Llama-3.2-3B-Instruct",
    ("llama3.3", "llama"): "meta-llama-Llama-3.3-70B-Instruct",
    ("mistral", "mistral"): "mistralai-Mistral-Nemo-Instruct-2407",
    ("mistral-nemo", "mistral"): "mistralai-Mistral-Nemo-Instruct-2407",
    ("mistral-small", "mistral"): "Mistral-Small-3.2-24B-Instruct-2506",
    ("gemma2", "gemma2"): "google-gemma-2-2b-it",
    ("phi3", "phi3"): "microsoft-Phi-3.5-mini-instruct",
    ("deepseek-r1", "qwen2"): "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    ("deepseek-r1", "llama"): "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    ("gpt-oss", "gpt_oss"): "openai-gpt-oss-120b",
}
"""The template of a model in the table of known models, or of the nearest one of the same makers, by name and type."""
TAUGHT = {
    "hermes": "<tool_call>",
    "llama3_json": r"<\|python_tag\|>|ipython",
    "mistral": r"\[TOOL_CALLS\]",
    "openai": r"<\|channel\|>",
    "qwen3_coder": "<function=",
    "deepseek_v31": "<｜tool▁calls▁begin｜>",
    "granite": r"<\|tool_call\|>",
    "granite4": "<tool_call>",
    "kimi_k2": r"<\|tool_calls_section_begin\|>",
    "minimax_m2": "<minimax:tool_call>",
    "glm45": "<arg_key>",
    "gemma4": r"<\|tool_call>",
}
"""How calls are written that a parser of vLLM reads: a template must teach the model just that."""
GENERATING = [model for model in ModelTable.load() if "completion" in model.capabilities]


def published(file: str | None) -> str:
    """Returns a template; none for none."""
    if file is None:
        return ""
    if not FOLDER.is_dir():
        pytest.skip(f"the published templates are not here: {FOLDER}; VLLAMA_TEMPLATES names their folder")
    return (FOLDER / f"{file}.jinja").read_text("utf-8")


def names_of(model: KnownModel) -> list[str]:
    """What a worker calls the model: the repository that its weights come from, and the name in the table."""
    return [model.repository, model.name]


@pytest.mark.parametrize("model", GENERATING, ids=lambda model: model.name)
def test_a_known_model_gets_what_the_table_promises(model: KnownModel) -> None:
    """Two tables, one here and one in the balancer, mean the same model."""
    file = PUBLISHED.get((model.name.split(":")[0], model.family))
    traits = traits_of(load_families(), model.family, names_of(model), published(file), {})
    assert (traits.tool_parser, traits.reasoning_parser) == (model.parser, model.reasoning)


@pytest.mark.parametrize(
    ("model_type", "repository", "file", "tools", "reasoning"),
    [
        ("qwen2", "Qwen/QwQ-32B", "Qwen-QwQ-32B", "hermes", "deepseek_r1"),
        ("qwen3_moe", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "Qwen3-Coder", "qwen3_coder", ""),
        ("llama", "NousResearch/Hermes-3-Llama-3.1-8B", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", ""),
        ("mistral3", "mistralai/Mistral-Small-3.2-24B", "Mistral-Small-3.2-24B-Instruct-2506", "mistral", ""),
        ("mistral", "mistralai/Devstral-Small-2507", "unsloth-mistral-Devstral-Small-2507", "mistral", ""),
        ("granite", "ibm-granite/granite-3.3-2b-instruct", "ibm-granite-granite-3.3-2B-Instruct", "granite", "granite"),
        ("granitemoehybrid", "ibm-granite/granite-4.0-h-tiny", "ibm-granite-granite-4.0", "granite4", ""),
        ("gemma4", "google/gemma-4-31B-it", "google-gemma-4-31B-it", "gemma4", "gemma4"),
        ("glm4_moe", "zai-org/GLM-4.6", "GLM-4.6", "glm45", "glm45"),
        ("kimi_k2", "moonshotai/Kimi-K2-Instruct", "Kimi-K2-Instruct", "kimi_k2", "kimi_k2"),
        ("minimax_m2", "MiniMaxAI/MiniMax-M2", "MiniMax-M2", "minimax_m2", "minimax_m2"),
        ("deepseek_v3", "deepseek-ai/DeepSeek-V3.1", "deepseek-ai-DeepSeek-V3.1", "deepseek_v31", "deepseek_v3"),
        ("gemma2", "google/gemma-2-2b-it", "google-gemma-2-2b-it", "", ""),
        ("phi3", "microsoft/Phi-3.5-mini-instruct", "microsoft-Phi-3.5-mini-instruct", "", ""),
    ],
)
def test_a_family_gets_its_parsers(model_type: str, repository: str, file: str, tools: str, reasoning: str) -> None:
    """Models that the table of known ones does not have."""
    traits = traits_of(load_families(), model_type, [repository], published(file), {})
    assert (traits.tool_parser, traits.reasoning_parser) == (tools, reasoning)
    assert not tools or re.search(TAUGHT[tools], published(file))


@pytest.mark.parametrize("key", PUBLISHED, ids=" ".join)
def test_the_parser_reads_what_the_template_teaches(key: tuple[str, str]) -> None:
    """A parser of other calls would leave them in the text."""
    name, family = key
    [model, *_] = [model for model in GENERATING if (model.name.split(":")[0], model.family) == key]
    template = published(PUBLISHED[key])
    traits = traits_of(load_families(), family, names_of(model), template, {})
    config = SimpleNamespace(model_config=SimpleNamespace(runner_type="generate", is_multimodal_model=False))
    can_call = worker_pb2.CAPABILITY_TOOLS in capabilities_of(config, template, traits)
    # This copy of SmolLM3's template is one without tools.
    assert can_call == (bool(model.parser) and name != "smollm3")
    assert not can_call or re.search(TAUGHT[traits.tool_parser], template)


def test_every_template_that_is_named_is_there() -> None:
    """And each key is a model's."""
    assert all(published(file) for file in PUBLISHED.values())
    assert set(PUBLISHED) <= {(model.name.split(":")[0], model.family) for model in GENERATING}
