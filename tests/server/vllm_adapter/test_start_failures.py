"""Provoked start failures: each message is kept word for word, with its root cause and what to do.

Where a message holds the model's place, the golden file says {model}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from vllama_server.errors import StartFailed
from vllama_server.vllm_adapter.engine import VllmEngine
from vllama_server.vllm_adapter.engine_config import EngineConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GOLDEN = Path(__file__).parents[2] / "golden" / "start_failures"
RECORD = os.environ.get("VLLAMA_RECORD_GOLDEN") == "1"
"""Writes the golden files instead of comparing with them."""

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


def linked(source: Path, target: Path, *, without: str = "") -> Path:
    """Makes a directory with links to a model's files."""
    target.mkdir()
    for file in source.iterdir():
        if file.name != without:
            (target / file.name).symlink_to(file)
    return target


def edited_config(source: Path, target: Path, **changes: object) -> Path:
    """Makes a model whose config.json differs."""
    linked(source, target, without="config.json")
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def corrupt_weights(source: Path, target: Path) -> Path:
    """Makes a model whose weights are cut in half."""
    linked(source, target, without="model.safetensors")
    weights = (source / "model.safetensors").read_bytes()
    (target / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return target


def broken_config(source: Path, target: Path) -> Path:
    """Makes a model whose config.json is cut short."""
    linked(source, target, without="config.json")
    (target / "config.json").write_text((source / "config.json").read_text()[:200])
    return target


async def message_of(model: str, **arguments: str) -> str:
    """Starts an engine and returns why it failed."""
    engine = VllmEngine(EngineConfig(model, device="cpu", engine_args=arguments))
    try:
        with pytest.raises(StartFailed) as caught:
            await engine.start(lambda _phase, _fraction: None)
    finally:
        await engine.stop()
    return str(caught.value)


async def message_from_a_process(model: str, **environment: str) -> str:
    """Does the same in a process of its own, whose environment is read at import."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("start_once.py")), model,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=os.environ | environment,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode().strip().splitlines()[-1]


def check(name: str, message: str, model: str) -> None:
    """Compares with the golden file."""
    path = GOLDEN / f"{name}.txt"
    message = message.replace(model, "{model}") + "\n"
    if RECORD:
        path.write_text(message)
    assert message == path.read_text()


@pytest.mark.parametrize(
    ("name", "make", "arguments"),
    [
        ("no_memory_for_the_cache", linked, {"kv_cache_memory_bytes": "8000000", "dtype": "bfloat16"}),
        ("corrupt_weights", corrupt_weights, {}),
        ("unsupported_architecture", lambda *at: edited_config(*at, architectures=["FancyForCausalLM"]), {}),
        ("context_too_long", linked, {"max_model_len": "32768"}),
        ("bad_quantization", linked, {"quantization": "awq"}),
        ("broken_config", broken_config, {}),
        ("unknown_engine_arg", linked, {"max_num_seq": "8"}),
    ],
)
async def test_a_failed_start_says_why_and_what_to_do(
    model_directory: Path, tmp_path: Path, name: str, make: Callable[[Path, Path], Path], arguments: dict[str, str]
) -> None:
    """The root cause comes from whichever process it arose in."""
    model = make(model_directory, tmp_path / "model")
    check(name, await message_of(str(model), **arguments), str(model))


async def test_a_missing_directory_is_said_to_be_missing() -> None:
    """Not taken for a repository's name."""
    check("missing_directory", await message_of("/nonexistent/model"), "/nonexistent/model")


@pytest.fixture
async def gated_hub() -> AsyncIterator[str]:
    """A model hub on loopback all of whose repositories are gated."""

    async def refuse(_request: web.Request) -> web.Response:
        headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}
        return web.json_response({"error": "Access to this model is restricted."}, status=401, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_gated_repository_says_how_to_get_in(gated_hub: str, tmp_path: Path) -> None:
    """Licence, token, HF_TOKEN."""
    message = await message_from_a_process(
        "some-org/gated-model", HF_ENDPOINT=gated_hub, HF_HUB_OFFLINE="0", TRANSFORMERS_OFFLINE="0",
        HF_HOME=str(tmp_path), NO_PROXY="127.0.0.1", no_proxy="127.0.0.1",
    )  # fmt: skip
    check("gated_repository", message.replace(gated_hub, "https://hub"), "some-org/gated-model")
