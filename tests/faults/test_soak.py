"""Thousands of mixed requests with cancelled ones and killed workers: afterwards nothing is left over."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import grpc
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.load import Outcome, expected_text, prompt_of, request_of
from vllama_protos.v1 import generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.fleet_process import FleetProcess
    from tests.faults.conftest import Matrix

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

REQUESTS = 5_000
CLIENTS = 24
KILLS = 5


@dataclass
class Soak:
    """A seeded mix: short and long prompts and answers, three of ten cancelled somewhere on the way."""

    stub: generation_pb2_grpc.GenerationStub
    outcome: Outcome
    delivered: int = 0
    """Tokens that reached clients which stayed to the end."""
    counted: int = 0
    """Tokens that `finished` counted for them."""
    done: int = 0

    async def client(self, numbers: range) -> None:
        """Sends its requests one after the other."""
        for number in numbers:
            await self.one(number, random.Random(number))
            self.done += 1

    async def one(self, number: int, rng: random.Random) -> None:
        """Sends one request, and leaves early when the dice say so."""
        tokens = rng.choice((1, 5, 20, 60))
        prompt = prompt_of(number, rng.choice((8, 64, 1500)))
        leave_after = rng.randrange(tokens + 1) if rng.random() < 0.3 else None
        call = self.stub.Generate(request_of(prompt, tokens), timeout=60)
        text, ids, finished = "", 0, None
        try:
            async for event in call:
                text += event.delta.text
                ids += len(event.delta.token_ids)
                if leave_after is not None and ids >= leave_after:
                    call.cancel()
                    return
                if event.HasField("finished"):
                    finished = event.finished
        except grpc.aio.AioRpcError as error:
            self.outcome.failed[error.code().name] += 1
            return
        if finished is None or text != expected_text(prompt, tokens):
            self.outcome.wrong += 1
            return
        self.outcome.complete += 1
        self.outcome.migrated += bool(finished.migrations)
        self.delivered += ids
        self.counted += finished.usage.completion_tokens


async def gauges(fleet: FleetProcess) -> dict[str, float]:
    """Reads the balancer's gauges that must come back to zero."""
    async with aiohttp.ClientSession() as session, session.get(f"{fleet.url}/metrics") as response:
        text = await response.text()
    wanted = ("streams", "queue", "leases", "in_flight", "waiting")
    return {
        sample.name + str(sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        if family.type == "gauge" and family.name.startswith("vllama") and any(word in family.name for word in wanted)
        for sample in family.samples
        if "limit" not in sample.name and "max" not in sample.name
    }


async def settled(fleet: FleetProcess) -> dict[str, float]:
    """Waits until every such gauge is zero; returns the last reading."""
    reading: dict[str, float] = {}
    for _ in range(100):
        reading = await gauges(fleet)
        if not any(reading.values()):
            break
        await asyncio.sleep(0.05)
    return reading


async def test_soak(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """20: 5,000 requests, three of ten cancelled, five kills; counts agree and nothing has grown."""
    running = fleet("--engine-arg", "speed=10")
    assert running.process is not None
    balancer = psutil.Process(running.process.pid)
    async with grpc.aio.insecure_channel(running.target) as channel:
        soak = Soak(generation_pb2_grpc.GenerationStub(channel), Outcome())

        async def kill() -> None:
            for number in range(KILLS):
                while soak.done < REQUESTS * (number + 1) / (KILLS + 2):
                    await asyncio.sleep(0.02)
                workers = [worker for worker in await asyncio.to_thread(running.workers) if worker.pid]
                os.kill(random.Random(number).choice(workers).pid, signal.SIGKILL)

        await soak.client(range(REQUESTS, REQUESTS + 200))
        memory, descriptors = balancer.memory_info().rss, balancer.num_fds()
        soak.done = soak.delivered = soak.counted = 0
        share = REQUESTS // CLIENTS + 1
        clients = [soak.client(range(n * share, min((n + 1) * share, REQUESTS))) for n in range(CLIENTS)]
        await asyncio.gather(*clients, kill())
    await asyncio.to_thread(running.wait_ready, 4, 60)
    left = await settled(running)
    grown, opened = balancer.memory_info().rss - memory, balancer.num_fds() - descriptors
    remark = f"grew {grown >> 20} MiB, {opened:+d} descriptors, {soak.delivered} tokens"
    matrix.add("20 soak, 30 % cancelled, 5 kills", soak.outcome, remark)
    assert soak.outcome.clean, soak.outcome
    assert soak.delivered == soak.counted
    assert left
    assert not any(left.values()), left
    assert opened <= 8
    assert grown < 64 << 20
