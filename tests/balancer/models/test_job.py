"""Jobs are processes: their messages arrive, errors keep their class, and no job outlives its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import psutil
import pytest

from vllama_balancer.gateway import Progress
from vllama_balancer.models.errors import AccessRefused, DoesNotFit, ModelError
from vllama_balancer.models.job import run_job

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
import sys, time
from vllama_balancer.models.errors import AccessRefused
from vllama_balancer.models.job import job_main
from vllama_balancer.gateway import Progress
def work(reporter):
"""


@pytest.fixture
def job(tmp_path: Path):
    """Makes a module of a job whose work is the given lines, and runs it."""

    def run(*lines: str, limits: str = ""):
        body = "".join(f"    {line}\n" for line in lines)
        (tmp_path / "somejob.py").write_text(f"{HEAD}{body}\nsys.exit(job_main(work, {limits}))\n")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        return aclosing(run_job("somejob", [], environment=environment))

    return run


async def test_progress_and_result_arrive_in_order(job) -> None:
    """The parent gets the job's messages, and not the output of its libraries."""
    lines = ('print("noise")', 'reporter.progress(Progress("half", 1, 2, "sha256:0"))', "reporter.result(size=3)")
    async with job(*lines) as steps:
        assert [step async for step in steps] == [Progress("half", 1, 2, "sha256:0"), {"size": 3}]


async def test_an_error_keeps_its_class_and_sentence(job) -> None:
    """The parent raises the error that the job reported."""
    with pytest.raises(AccessRefused, match="set HF_TOKEN"):
        async with job('raise AccessRefused("set HF_TOKEN")') as steps:
            [step async for step in steps]


async def test_a_job_takes_no_more_memory_than_it_may(job) -> None:
    """It fails before the machine's memory is full, with one sentence."""
    with pytest.raises(DoesNotFit, match="more memory than it may take"):
        async with job("bytearray(1 << 30)", limits="memory_bytes=256 << 20") as steps:
            [step async for step in steps]


async def test_a_crash_is_reported_with_its_last_line(job) -> None:
    """An unforeseen exception reaches the parent with the end of its traceback."""
    with pytest.raises(ModelError, match="status 1: ZeroDivisionError: division by zero"):
        async with job("1 / 0") as steps:
            [step async for step in steps]


async def test_a_killed_job_is_an_error(job) -> None:
    """A job that ends without a result has failed."""
    with pytest.raises(ModelError, match="status -9"):
        async with job("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)") as steps:
            [step async for step in steps]


async def test_a_job_ends_with_its_parent(job, tmp_path: Path) -> None:
    """A parent that is killed leaves no job behind."""
    async with job('reporter.progress(Progress("x"))', "time.sleep(600)"):
        pass  # writes the module
    script = (
        "import asyncio, os, sys\nfrom vllama_balancer.models.job import run_job\n"
        "async def main():\n    steps = run_job('somejob', [])\n    await anext(steps)\n"
        "    print('started', flush=True)\n    await asyncio.sleep(600)\nasyncio.run(main())"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert await parent.stdout.readline() == b"started\n"
    (child,) = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()
    async with asyncio.timeout(10):
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_closing_kills_the_job(job) -> None:
    """Closing the generator ends the process."""
    before = set(psutil.Process().children())
    async with job('reporter.progress(Progress("x"))', "time.sleep(600)") as steps:
        await anext(steps)
        (child,) = set(psutil.Process().children()) - before
    assert not child.is_running()
