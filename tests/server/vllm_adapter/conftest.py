"""One real engine for the whole session, and the small pieces that its tests share.

Starting vLLM takes half a minute, so every test that needs it uses the same one: the embedded
model in float32 on the CPU. What is under test beside it needs no engine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from vllama_server.vllm_adapter.engine import VllmEngine
from vllama_server.vllm_adapter.engine_config import EngineConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what vLLM's own imports warn of is not ours to mend
    import vllm.v1.engine.async_llm  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

HERE = Path(__file__).parent

CACHE_BYTES = 512 * 1024 * 1024
"""Some 11000 tokens in float32: enough for every test, and quick to set up."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Makes errors of our own warnings only: vLLM, torch and transformers warn on nearly every path."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("error:::vllama_server"), append=False)
            item.add_marker(pytest.mark.filterwarnings("ignore"), append=False)


@pytest.fixture(scope="session")
def model_directory() -> Path:
    """The embedded model, converted once for the machine."""
    command = [sys.executable, "-m", "vllama_balancer.models", "resolve", "smollm2:135m"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return Path(done.stdout.strip())


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary directory whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def engine_config(model_directory: Path) -> EngineConfig:
    """What the session's engine is asked for."""
    return EngineConfig(
        model=str(model_directory),
        name="smollm2:135m",
        device="cpu",
        deterministic=True,
        engine_args={"kv_cache_memory_bytes": str(CACHE_BYTES)},
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(engine_config: EngineConfig) -> AsyncIterator[VllmEngine]:
    """A started engine."""
    engine = VllmEngine(engine_config)
    await engine.start(lambda _phase, _fraction: None)
    try:
        yield engine
    finally:
        await engine.stop()
