"""Death of any process of the engine is noticed at once, and nothing survives the worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

NOTICED_SECONDS = 3.0
"""What is promised for a dead process."""
STALL_SECONDS = 4.0


class Doomed:
    """The process that doomed.py runs in."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def until(self, event: str, **details: object) -> dict[str, Any]:
        """Reads lines up to this event."""
        while True:
            said = await self.read()
            if said["event"] == event and details.items() <= said.items():
                return said

    async def read(self) -> dict[str, Any]:
        """Reads one line."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the worker ended without a word"
        said: dict[str, Any] = json.loads(line)
        return said


@asynccontextmanager
async def doomed(model: Path, stall_seconds: float = 60.0) -> AsyncIterator[Doomed]:
    """Starts doomed.py, and leaves nothing of it behind."""
    script = Path(__file__).with_name("doomed.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(model), str(stall_seconds),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield Doomed(process)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def all_gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Waits for processes to end; returns those that did not."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, seconds)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("victim", ["VLLM::EngineCore", "VLLM::Worker"], ids=["core", "worker"])
async def test_a_killed_engine_process_fails_the_engine_within_three_seconds(
    model_directory: Path, victim: str
) -> None:
    """`failed` returns, the running generation raises EngineDead, and `stop` leaves no child."""
    async with doomed(model_directory) as worker:
        streaming = await worker.until("streaming")
        killed = time.time()
        os.kill(streaming["processes"][victim], signal.SIGKILL)
        said = {line["event"]: line for line in (await worker.read(), await worker.read())}
        assert said["raised"]["type"] == said["failed"]["type"] == "EngineDead"
        assert max(line["time"] for line in said.values()) - killed < NOTICED_SECONDS
        assert (await worker.until("stopped"))["children"] <= 1, "multiprocessing's resource tracker may remain"


async def test_a_stopped_engine_is_noticed_within_the_stall_limit(model_directory: Path) -> None:
    """A hung process is not dead; only the missing steps show it."""
    async with doomed(model_directory, STALL_SECONDS) as worker:
        streaming = await worker.until("streaming")
        stopped = time.time()
        os.kill(streaming["processes"]["VLLM::EngineCore"], signal.SIGSTOP)
        failed = await worker.until("failed")
        assert failed["time"] - stopped < STALL_SECONDS + 1.0
        assert "no step" in failed["message"]
        assert (await worker.until("raised"))["type"] == "EngineDead"
        await worker.until("stopped")


@pytest.mark.parametrize(
    ("event", "details"),
    [("phase", {"phase": "load"}), ("streaming", {})],
    ids=["importing", "streaming"],
)
async def test_nothing_survives_a_killed_worker(model_directory: Path, event: str, details: dict[str, object]) -> None:
    """Three seconds after SIGKILL of the frontend no process of the engine is left, at any stage of its life."""
    async with doomed(model_directory) as worker:
        await worker.until(event, **details)
        children: list[psutil.Process] = []
        async with asyncio.timeout(30):
            while len(children) < 2:  # the resource tracker and the engine's core
                children = psutil.Process(worker.pid).children(recursive=True)
                await asyncio.sleep(0.05)
        os.kill(worker.pid, signal.SIGKILL)
        assert await all_gone(children, NOTICED_SECONDS) == []
