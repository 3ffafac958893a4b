"""A stopped command ends the processes that it has started."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from vllama_benchmarks.stoppable import stoppable

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import asyncio, sys, uvloop
from vllama_clients.cli.failure import CommandFailed
from vllama_benchmarks.stoppable import stoppable

async def work():
    try:
        print("working", flush=True)
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        print("tidied", flush=True)

try:
    {runner}.run(stoppable(work()))
except CommandFailed as failure:
    sys.exit(failure.status)
"""


@pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_signals_end_the_work_in_order(tmp_path: Path, runner: str, number: signal.Signals) -> None:
    """What the work does on its way out is done, and the status names the signal."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("{runner}", runner))
    process = await asyncio.create_subprocess_exec(sys.executable, str(program), stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"working\n"
        process.send_signal(number)
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert (out, process.returncode) == (b"tidied\n", 128 + number)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_other_cancellations_pass() -> None:
    """A cancelled task stays a cancelled task."""
    task = asyncio.create_task(stoppable(asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_results_pass() -> None:
    """Without a signal nothing changes."""
    assert await stoppable(asyncio.sleep(0, "done")) == "done"
