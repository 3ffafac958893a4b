"""The adapter's calls of vLLM for sleep and wake, and their failures."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from vllm.v1.engine.async_llm import AsyncLLM

from vllama_server.errors import CapabilityMissing, EngineDead
from vllama_server.vllm_adapter.engine import VllmEngine
from vllama_server.vllm_adapter.loaded_engine import LoadedEngine

if TYPE_CHECKING:
    from vllama_server.vllm_adapter.engine_config import EngineConfig


class RecordedLlm:
    """Stands for vLLM's engine on a GPU and records its calls."""

    def __init__(self, complaint: str = "", *, wakes: bool = True) -> None:
        self.asked: list[str] = []
        self._complaint = complaint
        self._wakes = wakes

    async def sleep(self, level: int = 1) -> None:
        """Would move the weights to the host's memory at level 1, and drop them at level 2."""
        if self._complaint:
            raise RuntimeError(self._complaint)
        self.asked.append(f"sleep {level}")

    async def wake_up(self) -> bool:
        """Would move them back."""
        self.asked.append("wake")
        return self._wakes


def loaded_on(llm: RecordedLlm, *, can_sleep: bool) -> LoadedEngine:
    """A loaded engine around the record, made without loading anything."""
    loaded = LoadedEngine.__new__(LoadedEngine)
    loaded._llm = llm
    loaded.description = SimpleNamespace(can_sleep=can_sleep)
    return loaded


async def test_weights_go_to_the_hosts_memory_and_come_back() -> None:
    """Level 1 keeps them: level 2 would have to read them from disk again."""
    llm = RecordedLlm()
    loaded = loaded_on(llm, can_sleep=True)
    await loaded.sleep()
    await loaded.wake()
    assert llm.asked == ["sleep 1", "wake"]


async def test_without_sleep_mode_nothing_is_asked_of_the_engine() -> None:
    """On a CPU vLLM would accept the call and ignore it."""
    llm = RecordedLlm()
    with pytest.raises(CapabilityMissing, match="enable_sleep_mode"):
        await loaded_on(llm, can_sleep=False).sleep()
    assert llm.asked == []


async def test_an_engine_that_fails_to_sleep_is_dead(engine_config: EngineConfig) -> None:
    """An engine with half of its weights on the device is dead; the error has the cause."""
    engine = VllmEngine(engine_config)
    engine._loaded = loaded_on(RecordedLlm("CUDA error: out of memory"), can_sleep=True)
    engine._failure = asyncio.get_running_loop().create_future()
    with pytest.raises(EngineDead, match="out of memory"):
        await engine.sleep()
    assert "out of memory" in str(await engine.failed())


async def test_an_engine_that_wakes_only_in_part_ends(engine_config: EngineConfig) -> None:
    """Its scheduler stays paused: every request would wait for ever."""
    engine = VllmEngine(engine_config)
    engine._loaded = loaded_on(RecordedLlm(wakes=False), can_sleep=True)
    engine._failure = asyncio.get_running_loop().create_future()
    with pytest.raises(EngineDead, match="still sleeps"):
        await engine.wake()
    assert "still sleeps" in str(await engine.failed())


@pytest.mark.parametrize("method", [AsyncLLM.sleep, AsyncLLM.wake_up])
def test_vllm_takes_what_it_is_asked(method) -> None:
    """The stand-in has the signatures that the installed vLLM has: a level, and no argument that must be given."""
    required = [
        name
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]
    assert required == ["self"]
    assert method is not AsyncLLM.sleep or "level" in inspect.signature(method).parameters
