"""The table of known models is complete, well-formed, and can be added to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllama_balancer.errors import ConfigError
from vllama_balancer.models.table import SHIPPED, ModelTable
from vllama_balancer.names import parse_name

if TYPE_CHECKING:
    from pathlib import Path


def test_the_shipped_table_has_the_usual_models() -> None:
    """At least 40 names, Qwen 2.5 first, with embedding models and quantized variants among them."""
    models = list(ModelTable.load())
    assert len(models) >= 40
    assert models[0].name == "qwen2.5:0.5b"
    assert sum("embedding" in model.capabilities for model in models) >= 4
    assert {"AWQ", "GPTQ", "FP8"} <= {model.quantization for model in models}


def test_every_entry_is_complete() -> None:
    """A name in display form, a source, a size, a context and a licence."""
    for model in ModelTable.load():
        assert parse_name(model.name).display == model.name
        assert bool(model.package) != (model.repository.count("/") == 1), model.name
        assert model.parameters[-1] in "MB" and float(model.parameters[:-1]) > 0, model.name
        assert model.context >= 512 and model.license and model.capabilities and model.family, model.name


def test_a_model_with_tools_or_reasoning_has_a_parser_for_it() -> None:
    """Without one, tool calls and reasoning would be part of the text."""
    for model in ModelTable.load():
        assert bool(model.parser) == ("tools" in model.capabilities), model.name
        assert bool(model.reasoning) == ("thinking" in model.capabilities), model.name


@pytest.mark.parametrize("name", ["qwen2.5", "smollm2", "llama3.2", "mistral", "gpt-oss", "bge-m3"])
def test_a_family_without_a_tag_is_its_latest(name: str) -> None:
    """A bare name means what the family calls its latest."""
    table = ModelTable.load()
    assert table.find(name) == table.find(f"{name}:latest") is not None


def test_families_of_every_maker_are_known() -> None:
    """Names that users have from Ollama."""
    names = {model.name.partition(":")[0] for model in ModelTable.load()}
    assert names >= {
        "qwen2.5", "qwen3", "llama3.1", "llama3.2", "llama3.3", "mistral", "gemma2", "gemma3", "phi3", "phi4",
        "smollm2", "deepseek-r1", "gpt-oss", "bge-m3", "all-minilm", "mxbai-embed-large", "qwen3-embedding",
    }  # fmt: skip


def test_options_are_ollamas_and_reach_the_requests_by_the_models_presets() -> None:
    """Every one is a name that a request could use."""
    known = {"temperature", "top_p", "top_k", "min_p", "repeat_penalty", "stop", "num_predict"}
    models = list(ModelTable.load())
    assert all(set(model.options) <= known for model in models)
    assert next(model for model in models if model.name == "qwen3:8b").options["top_k"] == 20


def test_a_refused_model_is_not_listed_and_names_a_substitute() -> None:
    """A known model that cannot be served has an error of its own."""
    table = ModelTable.load()
    assert "nomic-embed-text:v1.5" not in [model.name for model in table]
    assert "take bge-m3" in table.find("nomic-embed-text").refusal


def test_an_own_file_adds_and_overrides(tmp_path: Path) -> None:
    """A file of the same shape adds names and replaces shipped ones."""
    own = tmp_path / "models.toml"
    own.write_text(
        '[a]\nname = "smollm2"\nfamily = "llama"\ncontext = 1024\nlicense = "x"\n'
        '[a.tags]\n"135m" = { repository = "me/mine", parameters = "1M" }\n'
        '"9b" = { repository = "me/big", parameters = "9B" }\n'
    )
    table = ModelTable.load(own)
    assert table.find("smollm2:135m").repository == "me/mine"
    assert table.find("smollm2:9b").context == 1024
    assert table.find("qwen2.5:7b").repository == "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no toml", "not a readable table"),
        ('[a]\nname = "x"\n', "family [a]"),
        ('[a]\nname = "x"\n[a.tags]\n1b = { repostory = "a/b" }\n', "repostory"),
        ('[a]\nname = "x"\n[a.tags]\n1b = { parameters = "1B" }\n', "either a repository or a package"),
    ],
)
def test_a_wrong_own_file_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    """The error names the file and the wrong entry."""
    own = tmp_path / "models.toml"
    own.write_text(text)
    with pytest.raises(ConfigError) as error:
        ModelTable.load(own)
    assert str(own) in str(error.value) and words in str(error.value)


def test_tags_of_a_family_make_a_hint() -> None:
    """A wrong tag is answered with the right ones."""
    assert ModelTable.load().tags("phi4:9b") == ["phi4:14b"]


def test_the_shipped_table_comes_with_the_package() -> None:
    """It lies beside the code."""
    assert SHIPPED.is_file()
