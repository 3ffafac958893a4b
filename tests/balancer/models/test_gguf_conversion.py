"""A GGUF file is converted once to a directory that vLLM loads; a failed conversion leaves no files."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from tests.balancer.models.tiny_gguf import write_tiny_gguf
from vllama_balancer.models.errors import ConversionFailed, DoesNotFit
from vllama_balancer.models.job import run_job

if TYPE_CHECKING:
    from pathlib import Path

    from vllama_balancer.gateway import Progress

JOB = "vllama_balancer.models.gguf_conversion"


async def converted(source: Path, target: Path) -> list[Progress | dict]:
    """Runs a conversion and returns its messages."""
    async with aclosing(run_job(JOB, [str(source), str(target)])) as steps:
        return [step async for step in steps]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress | dict]]:
    """One conversion, run twice at the same time, for all tests that look at its result."""
    directory = tmp_path_factory.mktemp("gguf")
    write_tiny_gguf(directory / "tiny.gguf")

    async def twice() -> list[list[Progress | dict]]:
        runs = [converted(directory / "tiny.gguf", directory / "out" / "tiny") for _ in range(2)]
        return await asyncio.gather(*runs)

    first, second = asyncio.run(twice())
    assert first[-1] == second[-1]
    assert min(len(first), len(second)) == 1  # only one of the two had anything to do
    return directory / "out" / "tiny", max(first, second, key=len)


def test_the_result_is_complete_and_nothing_is_beside_it(result) -> None:
    """Weights, tokenizer, template and configuration are there, readable by all; no partial directory."""
    target, _ = result
    names = {path.name for path in target.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    } <= names
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in target.iterdir())
    assert {path.name for path in target.parent.iterdir()} == {"tiny", ".tiny.lock"}


def test_steps_are_reported_in_order(result) -> None:
    """Each step of the work is one message, and bars have totals."""
    _, messages = result
    statuses = [step.status for step in messages[:-1]]
    assert statuses[0] == "reading the file" and "writing safetensors" in statuses
    assert any(step.total and step.completed == step.total for step in messages[:-1])


def test_the_end_of_a_turn_ends_generation(result) -> None:
    """The declared end, and the token that ends turns in the chat template."""
    target, _ = result
    assert json.loads((target / "generation_config.json").read_bytes())["eos_token_id"] == [0, 2]


def test_weights_are_bfloat16_and_no_place_is_named(result) -> None:
    """The configuration has bfloat16 and no path of this machine."""
    target, _ = result
    config = json.loads((target / "config.json").read_bytes())
    assert config["dtype"] == "bfloat16" and config["model_type"] == "llama"
    assert "quantization_config" not in config and str(target.parents[1]) not in json.dumps(config)


def test_the_tokenizer_splits_digits_and_knows_its_special_tokens(result) -> None:
    """SmolLM's digits never merge, and control tokens are one token each."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(result[0] / "tokenizer.json"))
    assert tokenizer.encode("ab12<|im_end|>").tokens == ["ab", "1", "2", "<|im_end|>"]


async def test_a_part_of_a_file_is_refused(tmp_path: Path) -> None:
    """The message has the number of parts, and the command that joins them."""
    part = tmp_path / "m-00001-of-00003.gguf"
    write_tiny_gguf(part, parts=3)
    with pytest.raises(ConversionFailed, match=r"is one of 3 parts, .*llama-gguf-split --merge"):
        await converted(part, tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_a_damaged_file_leaves_no_target(tmp_path: Path) -> None:
    """A file that was cut is refused by name, and no target appears."""
    whole, cut = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    write_tiny_gguf(whole)
    cut.write_bytes(whole.read_bytes()[:600])
    with pytest.raises(ConversionFailed, match=r"cut\.gguf"):
        await converted(cut, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()


async def test_a_conversion_stays_within_the_quota_of_pulls(tmp_path: Path) -> None:
    """What it would write counts, and nothing is left behind."""
    write_tiny_gguf(tmp_path / "tiny.gguf")
    arguments = [str(tmp_path / "tiny.gguf"), str(tmp_path / "out" / "tiny"), "--quota-bytes", "1", "--no-pickle"]
    with pytest.raises(DoesNotFit, match="raise --pull-quota"):
        async with aclosing(run_job(JOB, arguments)) as steps:
            [step async for step in steps]
    assert not (tmp_path / "out" / "tiny").exists()
