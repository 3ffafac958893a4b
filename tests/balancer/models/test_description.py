"""Descriptions of models from their files."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.models.description import describe
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 10, "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path):
    """Writes a model's files and describes them."""

    def make(config: dict | None = None, known: tuple[str, ...] = (), **files: object):
        contents = {"config__json": {**CONFIG, **(config or {})}, **files}
        for name, content in contents.items():
            (tmp_path / name.replace("__", ".")).write_text(
                content if isinstance(content, str) else json.dumps(content)
            )
        header = json.dumps({"__metadata__": {"format": "pt"}, "w": {"shape": [10, 8]}, "b": {"shape": [8]}}).encode()
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 100)
        return describe("m:a", tmp_path, known)

    return make


def words(description: worker_pb2.DescribeResponse) -> set[str]:
    """Names of the capabilities."""
    return {worker_pb2.Capability.Name(value).removeprefix("CAPABILITY_").lower() for value in description.capabilities}


def test_sizes_come_from_the_configuration_and_the_weights(model) -> None:
    """Layers, heads and context as configured; parameters counted from the headers."""
    info = model().model_info
    assert (info.architecture, info.block_count, info.head_count, info.head_count_kv) == ("llama", 2, 4, 2)
    assert (info.embedding_length, info.trained_context_length, info.vocabulary_size) == (8, 64, 10)
    assert (info.parameter_count, info.quantization) == (88, "BF16") and info.size_bytes > 100


def test_a_chat_template_makes_it_chat(model) -> None:
    """From its own file, or from the tokenizer's configuration, alone or among several."""
    assert words(model()) == {"completion"}
    several = [{"name": "rag", "template": "x"}, {"name": "default", "template": "d"}]
    found = model(tokenizer_config__json={"chat_template": several})
    assert words(found) == {"completion", "chat"} and found.model_info.chat_template == "d"
    assert model(chat_template__jinja="own").model_info.chat_template == "own"


def test_think_tags_make_it_think(model) -> None:
    """A template with both tags is one of a reasoning model."""
    assert "thinking" in words(model(chat_template__jinja="<think></think>"))


def test_pictures_need_a_vision_configuration(model) -> None:
    """And sizes are those of the text part."""
    found = model({"vision_config": {}, "text_config": {"hidden_size": 16}}, chat_template__jinja="t")
    assert "vision" in words(found) and found.model_info.embedding_length == 16


@pytest.mark.parametrize("architecture", ["BertModel", "XLMRobertaModel", "Qwen3ForSequenceClassification"])
def test_encoders_embed(model, architecture: str) -> None:
    """A model without a language modelling head does not generate."""
    assert words(model({"architectures": [architecture]})) == {"embedding"}


def test_a_sentence_transformer_embeds(model) -> None:
    """Whatever its architecture is."""
    assert words(model(modules__json=[])) == {"embedding"}


def test_the_capabilities_of_the_table_win(model) -> None:
    """Tool calls need a parser, which only the table names."""
    assert words(model(known=("completion", "tools"), chat_template__jinja="tools")) == {"completion", "tools", "chat"}


def test_sampling_defaults_are_the_models_own(model) -> None:
    """From its generation_config; invalid values are left out."""
    given = {"temperature": 0.6, "top_k": 20.0, "top_p": None}
    sampling = model(generation_config__json=given).model_info.default_sampling
    assert (sampling.temperature, sampling.top_k, sampling.HasField("top_p")) == (0.6, 20, False)


def test_quantized_weights_say_so(model) -> None:
    """By the method of the quantization."""
    assert model({"quantization_config": {"quant_method": "awq"}}).model_info.quantization == "AWQ"


def test_a_directory_without_configuration_is_not_described(tmp_path: Path) -> None:
    """None is returned."""
    assert describe("m:a", tmp_path) is None
    (tmp_path / "config.json").write_text("[1]")
    assert describe("m:a", tmp_path) is None
