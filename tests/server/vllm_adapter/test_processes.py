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

from vllama_server.vllm_adapter.workspace import sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

NOTICED_SECONDS = 3.0
"""What is promised for a dead process."""


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
async def doomed(model: Path, *arguments: str, temporary: Path) -> AsyncIterator[Doomed]:
    """Starts doomed.py with arguments for the engine, and leaves nothing of it behind."""
    script = Path(__file__).with_name("doomed.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(model), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        env=os.environ | {"TMPDIR": str(temporary)},
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


@pytest.mark.parametrize(
    ("victim", "arguments"),
    [("VLLM::EngineCore", ()), ("VLLM::Worker", ("distributed_executor_backend=mp",))],
    ids=["core", "worker"],
)
async def test_a_killed_engine_process_fails_the_engine_within_three_seconds(
    model_directory: Path, victim: str, arguments: tuple[str, ...], temporary: Path
) -> None:
    """`failed` returns, the running generation raises EngineDead, `stop` leaves neither child nor file."""
    async with doomed(model_directory, *arguments, temporary=temporary) as worker:
        streaming = await worker.until("streaming")
        killed = time.time()
        os.kill(streaming["processes"][victim], signal.SIGKILL)
        said = {line["event"]: line for line in (await worker.read(), await worker.read())}
        assert said["raised"]["type"] == said["failed"]["type"] == "EngineDead"
        assert max(line["time"] for line in said.values()) - killed < NOTICED_SECONDS
        assert (await worker.until("stopped"))["children"] <= 1, "multiprocessing's resource tracker may remain"
        assert await asyncio.to_thread(lambda: list(temporary.glob("vllama-engine-*"))) == []
        assert await asyncio.to_thread(lambda: list(temporary.glob("vllm_dist_*"))) == []
        assert await asyncio.to_thread(lambda: [path for path in temporary.iterdir() if path.is_socket()]) == []


@pytest.mark.parametrize(
    ("event", "details"),
    [("phase", {"phase": "load"}), ("streaming", {})],
    ids=["importing", "streaming"],
)
async def test_nothing_survives_a_killed_worker(
    model_directory: Path, event: str, details: dict[str, object], temporary: Path
) -> None:
    """Three seconds after SIGKILL of the frontend no process is left, and no file once another engine starts."""
    async with doomed(model_directory, temporary=temporary) as worker:
        await worker.until(event, **details)
        children: list[psutil.Process] = []
        async with asyncio.timeout(30):
            while len(children) < 2:  # the resource tracker and the engine's core
                children = psutil.Process(worker.pid).children(recursive=True)
                await asyncio.sleep(0.05)
        os.kill(worker.pid, signal.SIGKILL)
        assert await all_gone(children, NOTICED_SECONDS) == []
    await asyncio.to_thread(sweep, temporary)
    assert await asyncio.to_thread(lambda: [path for path in temporary.rglob("*") if not path.is_dir()]) == []
