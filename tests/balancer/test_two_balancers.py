"""Two balancers over the same workers: each counts its own streams, and the reports add the other's."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from tests.balancer.conftest import QUICK_HEALTH, OneModel, make_request
from tests.balancer.scripted_worker import Script, ScriptedWorker, eventually
from vllama_balancer.dispatch.admission import AdmissionSettings
from vllama_balancer.dispatch.dispatcher import Dispatcher
from vllama_balancer.fleet.events import Added
from vllama_balancer.gateway import Call
from vllama_balancer.metrics import Metrics
from vllama_balancer.routing.policies import make_policy
from vllama_balancer.workers.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from vllama_protos.v1 import generation_pb2

WORKERS, STREAMS = 4, 48
FAIR = 1.3
"""How much fuller the fullest worker may be than behind one balancer, as multiples of the mean worker's streams."""


@dataclass
class Balancer:
    """A dispatcher over remote workers, and its streams."""

    pool: Pool
    dispatcher: Dispatcher
    streams: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self, count: int) -> None:
        """Begins `count` generations at once."""
        self.streams += [asyncio.create_task(self._run(make_request(f"{i} of {count}"))) for i in range(count)]

    async def _run(self, request: generation_pb2.GenerateRequest) -> None:
        async with contextlib.aclosing(self.dispatcher.generate(request, Call("test"))) as events:
            async for _ in events:
                pass

    def has_load_of(self, workers: list[ScriptedWorker]) -> bool:
        """Returns whether the reports include all streams of the workers."""
        reported = {worker.name: worker.report.running for worker in self.pool.workers()}
        return reported == {worker.name: worker.running for worker in workers}


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[list[ScriptedWorker]]:
    """Workers whose streams pause after a token."""
    made = [ScriptedWorker(f"w{i}", f"unix:{tmp_path}/w{i}", max_streams=64) for i in range(WORKERS)]
    for worker in made:
        worker.script = Script(pause_after_tokens=1)
        await worker.start()
    yield made
    for worker in made:
        await worker.die()


@pytest.fixture
async def balancers(workers: list[ScriptedWorker]) -> AsyncIterator[list[Balancer]]:
    """Two of them without any connection to each other."""
    made = []
    async with contextlib.AsyncExitStack() as stack:
        for seed in range(2):
            pool = Pool(QUICK_HEALTH)
            stack.push_async_callback(pool.close)
            metrics, policy = Metrics(CollectorRegistry()), make_policy("expected-completion")
            dispatcher = Dispatcher(pool, OneModel(), policy, metrics, AdmissionSettings(), Random(seed))
            await stack.enter_async_context(dispatcher)
            for worker in workers:
                pool.apply(Added(worker.name, worker.address, worker.models))
            made.append(Balancer(pool, dispatcher))
        await eventually(lambda: all(not w.unavailable for one in made for w in one.pool.workers()))
        yield made
        for worker in workers:
            worker.go_on.set()
        await asyncio.gather(*(stream for one in made for stream in one.streams))


def imbalance(workers: list[ScriptedWorker]) -> float:
    """The fullest worker's streams over the mean worker's."""
    return max(worker.running for worker in workers) * len(workers) / sum(worker.running for worker in workers)


async def until_running(workers: list[ScriptedWorker], streams: int) -> None:
    """Waits until the workers have so many streams."""
    await eventually(lambda: sum(worker.running for worker in workers) == streams)


async def test_a_burst_through_two_balancers_spreads_like_one_through_one(
    workers: list[ScriptedWorker], balancers: list[Balancer]
) -> None:
    """Though no report includes the other's latest requests."""
    one, other = balancers
    one.begin(STREAMS)
    await until_running(workers, STREAMS)
    alone = imbalance(workers)
    for worker in workers:
        worker.go_on.set()
    await asyncio.gather(*one.streams)
    await until_running(workers, 0)
    for worker in workers:
        worker.go_on.clear()
    await eventually(lambda: all(balancer.has_load_of(workers) for balancer in balancers))
    one.begin(STREAMS // 2)
    other.begin(STREAMS // 2)
    await until_running(workers, STREAMS)
    assert imbalance(workers) <= FAIR * alone


async def test_one_balancer_fills_what_the_other_has_left_empty(
    workers: list[ScriptedWorker], balancers: list[Balancer]
) -> None:
    """Half of the streams are on two workers when the other balancer begins: it sees that in their reports.

    By its own counts alone it would spread evenly, and those two would end with 18 of 48 streams each, 1.5 times the
    mean.
    """
    one, other = balancers
    for name in ("w2", "w3"):
        one.pool.find(name).hold("kept empty by the test")
    one.begin(STREAMS // 2)
    await until_running(workers, STREAMS // 2)
    await eventually(lambda: other.has_load_of(workers))
    other.begin(STREAMS // 2)
    await until_running(workers, STREAMS)
    assert imbalance(workers) <= FAIR
