"""A whole worker on real vLLM: how it ends, of itself and with the processes of its engine."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2

from tests.server.statuses import error_of
from tests.server.worker_process import rest_of
from vllama_protos.v1 import worker_pb2
from vllama_server.vllm_adapter.workspace import sweep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.server.worker_process import WorkerProcess

    Start = Callable[..., Awaitable[WorkerProcess]]

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

NOTICED_SECONDS = 3.0
"""What is promised for a dead process."""
STALL_SECONDS = 4.0
MARGIN_SECONDS = 6.0
"""What a busy machine may add to the limit of a hung one."""
ENDLESS = 4000
"""Tokens that take longer than any of these tests."""
ALARMS = ("ERROR", "Traceback", "Exception ignored", "leaked", "killing")
"""None of these belongs in the log of a worker that was asked to stop."""
ENVIRONMENT = dict(os.environ)
"""As the run found it: an engine in this process leaves settings behind, which a worker takes for its operator's."""


@pytest.fixture
def start(spawn: Start, model_directory: Path, temporary: Path) -> Start:
    """Starts a worker on the embedded model, with further flags, that keeps its files in `temporary`."""

    async def real(*flags: str, **options: Any) -> WorkerProcess:
        cache = ("--device", "cpu", "--engine-arg", "kv_cache_memory_bytes=268435456")
        environment = ENVIRONMENT | {"TMPDIR": str(temporary)}
        return await spawn(*cache, *flags, model=str(model_directory), engine="vllm", env=environment, **options)

    return real


def family(worker: WorkerProcess) -> dict[str, psutil.Process]:
    """The processes below a worker, by their names."""
    return {child.name(): child for child in psutil.Process(worker.process.pid).children(recursive=True)}


async def survivors(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Waits for processes to end; returns those that did not."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, seconds)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


async def files_in(directory: Path) -> list[Path]:
    """All that is in a directory and is no directory itself."""
    return await asyncio.to_thread(lambda: [path for path in directory.rglob("*") if not path.is_dir()])


@pytest.mark.parametrize(
    ("victim", "number", "limit_seconds", "flags"),
    [
        ("VLLM::EngineCore", signal.SIGKILL, NOTICED_SECONDS, ()),
        ("VLLM::Worker", signal.SIGKILL, NOTICED_SECONDS, ("--engine-arg", "distributed_executor_backend=mp")),
        ("VLLM::EngineCore", signal.SIGSTOP, STALL_SECONDS + MARGIN_SECONDS, ("--stall-seconds", str(STALL_SECONDS))),
    ],
    ids=["core killed", "vLLM's worker killed", "core stopped"],
)
async def test_a_worker_ends_with_its_engine(
    start: Start, temporary: Path, victim: str, number: int, limit_seconds: float, flags: tuple[str, ...]
) -> None:
    """NOT_SERVING, the call in flight UNAVAILABLE, exit status 3, and neither process nor file is left."""
    worker = await start(*flags)
    processes = family(worker)
    async with asyncio.TaskGroup() as tasks:
        health = tasks.create_task(worker.health())
        call = await worker.begin(ENDLESS)
        hit = time.monotonic()
        processes[victim].send_signal(number)
        assert (await error_of(rest_of(call))).code() is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - hit < limit_seconds
        assert await worker.status() == 3
    assert health.result()[-1] == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await survivors(list(processes.values()), NOTICED_SECONDS) == []
    assert await files_in(temporary) == []


@pytest.mark.parametrize("moment", ["importing", "streaming"])
async def test_nothing_survives_a_killed_worker(start: Start, temporary: Path, moment: str) -> None:
    """Three seconds after its SIGKILL no process is left, and no file once another engine starts."""
    worker = await start(ready=False)
    if moment == "streaming":
        await worker.ready()
        await worker.begin(ENDLESS)
    else:
        await worker.reached(worker_pb2.WORKER_STATE_STARTING)
        async with asyncio.timeout(30):
            while "vllama::fork-server" not in family(worker):
                await asyncio.sleep(0.05)
    processes = list(family(worker).values())
    worker.signal(signal.SIGKILL)
    assert await survivors(processes, NOTICED_SECONDS) == []
    await asyncio.to_thread(sweep, temporary)
    assert await files_in(temporary) == []


async def test_the_first_signal_waits_for_streams_and_the_second_does_not(start: Start, temporary: Path) -> None:
    """It goes on after a Ctrl-C, which all processes get, and ends UNAVAILABLE with SIGTERM; the log of it is calm."""
    worker = await start("--drain-timeout", "600")
    processes = list(family(worker).values())
    call = await worker.begin(ENDLESS)
    os.killpg(worker.process.pid, signal.SIGINT)
    await worker.reached(worker_pb2.WORKER_STATE_DRAINING)
    assert (await call.read()).WhichOneof("event") == "delta"
    worker.signal(signal.SIGTERM)
    asked = time.monotonic()
    assert (await error_of(rest_of(call))).code() is grpc.StatusCode.UNAVAILABLE
    assert await worker.status() == 0
    assert time.monotonic() - asked < 15.0
    assert [line for line in worker.log().splitlines() if any(alarm in line for alarm in ALARMS)] == []
    assert await survivors(processes, NOTICED_SECONDS) == []
    assert await files_in(temporary) == []
