"""Thousands of mixed requests with cancelled ones and killed workers: afterwards nothing is left over."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import grpc
import pytest

from tests.faults.soak import Scraper, Soak, kill_at
from vllama_protos.v1 import generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.fleet_process import FleetProcess
    from tests.faults.conftest import Matrix

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

REQUESTS = 5_000
CLIENTS = 24
KILLS = 5


async def test_soak(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """20: 5,000 requests, three of ten cancelled, five kills; counts agree and nothing has grown."""
    running = fleet("--engine-arg", "speed=10")
    async with grpc.aio.insecure_channel(running.target) as channel, aiohttp.ClientSession() as session:
        stub, scraper, begun = generation_pb2_grpc.GenerationStub(channel), Scraper(session, running.url), 0.0
        await Soak(stub).client(range(REQUESTS, REQUESTS + 200))
        before = await scraper.sample(begun, 0)
        soak, begun = Soak(stub), time.monotonic()
        kills = [REQUESTS * (number + 1) // (KILLS + 2) for number in range(KILLS)]
        await asyncio.gather(soak.clients(CLIENTS, REQUESTS), kill_at(running, soak, kills))
        soak.outcome.seconds = time.monotonic() - begun
        await asyncio.to_thread(running.wait_ready, 4, 60)
        left = await scraper.settled()
        after = await scraper.sample(begun, soak.done)
    grown = after.memory_bytes - before.memory_bytes
    opened, tasks = after.descriptors - before.descriptors, after.tasks - before.tasks
    remark = f"{soak.cancelled} cancelled, grew {grown >> 20} MiB, {opened:+d} descriptors, {tasks:+d} tasks"
    matrix.add("20 soak, 30 % cancelled, 5 kills", soak.outcome, f"{remark}, {soak.delivered} tokens")
    assert soak.outcome.clean, soak.outcome
    assert soak.outcome.complete + soak.cancelled == REQUESTS
    assert soak.delivered == soak.counted
    assert left
    assert not any(left.values()), left
    assert opened <= 8
    assert tasks <= 8
    assert grown < 64 << 20
