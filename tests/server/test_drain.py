"""The command that drains a running worker, as a preStop hook calls it."""

import asyncio

import pytest

from tests.server.engines import started
from tests.server.statuses import all_of
from vllama_protos.v1 import generation_pb2
from vllama_server import drain


async def test_an_idle_worker_is_drained_at_once(start_worker):
    """Status 0, and the worker takes nothing more."""
    worker = await start_worker(started())
    assert await asyncio.to_thread(drain.main, [worker.server.address, "--timeout", "20"]) == 0
    with pytest.raises(Exception, match=r"drain"):
        await all_of(worker.generation.Generate(generation_pb2.GenerateRequest(prompt="x")))


async def test_streams_that_outlast_the_time_are_reported(start_worker, capsys):
    """Status 1 with their number; they are not cut off."""
    engine = started()
    engine.may_end.clear()
    worker = await start_worker(engine)
    running = asyncio.create_task(all_of(worker.generation.Generate(generation_pb2.GenerateRequest(prompt="x"))))
    async with asyncio.timeout(20):
        while not engine.requests:
            await asyncio.sleep(0.005)
    assert await asyncio.to_thread(drain.main, [worker.server.address, "--timeout", "0.05"]) == 1
    assert "1 streams still run" in capsys.readouterr().err
    engine.may_end.set()
    assert (await running)[-1].WhichOneof("event") == "finished"


async def test_a_worker_that_is_not_there(tmp_path, capsys):
    """Status 1 and its address."""
    address = f"unix:{tmp_path}/missing.sock"
    assert await asyncio.to_thread(drain.main, [address, "--timeout", "1"]) == 1
    assert address in capsys.readouterr().err
