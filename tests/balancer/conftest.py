"""A dispatcher in this process, over scripted workers on unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from tests.balancer.scripted_worker import ScriptedWorker, eventually
from vllama_balancer.dispatch.admission import AdmissionSettings
from vllama_balancer.dispatch.dispatcher import Dispatcher
from vllama_balancer.fleet.events import Added
from vllama_balancer.gateway import Call, ModelEntry
from vllama_balancer.metrics import Metrics
from vllama_balancer.routing.policies import make_policy
from vllama_balancer.workers.breaker import HealthSettings
from vllama_balancer.workers.metrics import PoolCollector
from vllama_balancer.workers.pool import Pool
from vllama_protos.v1 import generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

QUICK_HEALTH = HealthSettings(
    first_ejection_seconds=0.05,
    longest_ejection_seconds=0.4,
    probe_timeout_seconds=1.0,
    silence_seconds=0.4,
    answer_seconds=0.3,
    streaming_silence_seconds=0.2,
    streaming_answer_seconds=0.3,
    local_answer_seconds=0.3,
    engine_stall_seconds=0.5,
    check_interval_seconds=0.02,
)
"""Health thresholds short enough for tests, long enough for a busy machine."""


CALM_SECONDS = 0.3
"""How long no worker may have crashed before a trial; longer than the balancer takes to notice a crash."""


class OneModel:
    """A catalog of the given models."""

    def __init__(self, *names: str) -> None:
        self._names = names or ("m:latest",)

    def models(self) -> list[ModelEntry]:
        """Lists them."""
        return [ModelEntry(name, "0" * 64, 1, datetime(2026, 1, 1, tzinfo=UTC)) for name in self._names]

    def find(self, name: str) -> ModelEntry | None:
        """Finds one; "m" means "m:latest"."""
        full = name if ":" in name else f"{name}:latest"
        return next((entry for entry in self.models() if entry.name == full), None)

    async def find_or_wait(self, name: str) -> ModelEntry | None:
        """Finds one; none is ever expected."""
        return self.find(name)


@dataclass
class Reply:
    """A generation that has come to its end."""

    events: list[generation_pb2.GenerateResponse] = field(default_factory=list)
    """Every event, in order."""

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(event.delta.text for event in self.events)

    @property
    def token_ids(self) -> list[int]:
        """Its tokens."""
        return [token for event in self.events for token in event.delta.token_ids]

    @property
    def started(self) -> list[generation_pb2.Started]:
        """Every `started`."""
        return [event.started for event in self.events if event.HasField("started")]

    @property
    def finished(self) -> generation_pb2.Finished:
        """The end."""
        assert self.events[-1].HasField("finished")
        return self.events[-1].finished


@dataclass
class Fleet:
    """A dispatcher and its workers."""

    pool: Pool
    dispatcher: Dispatcher
    workers: list[ScriptedWorker]
    registry: CollectorRegistry

    async def generate(self, prompt: str = "hello", call: Call | None = None, **fields: object) -> Reply:
        """Runs one generation to its end."""
        reply = Reply()
        events = self.dispatcher.generate(make_request(prompt, **fields), call or Call("test"))
        async with contextlib.aclosing(events):
            async for event in events:
                reply.events.append(event)
        return reply

    def value(self, metric: str, **labels: str) -> float:
        """Reads a metric; 0 while it has no sample."""
        return self.registry.get_sample_value(metric, labels) or 0.0

    @property
    def leases(self) -> int:
        """Leases held in the whole fleet."""
        return sum(worker.lease_count for worker in self.pool.workers())

    async def all_available(self) -> None:
        """Waits until every worker may take requests."""
        # Some are processes, which take their time to start on a busy machine.
        await eventually(lambda: all(not worker.unavailable for worker in self.pool.workers()), 60.0)


def make_request(prompt: str = "hello", max_tokens: int = 8, **fields: object) -> generation_pb2.GenerateRequest:
    """Makes a request for a few tokens."""
    sampling = fields.pop("sampling", None) or generation_pb2.Sampling()
    sampling.max_tokens = max_tokens
    return generation_pb2.GenerateRequest(**{"model": "m", "prompt": prompt, "sampling": sampling, **fields})


FleetMaker = "Callable[..., Awaitable[Fleet]]"


@pytest.fixture(params=[False, True], ids=["calls", "relay"])
def can_relay(request: pytest.FixtureRequest) -> bool:
    """Whether workers relay generations over a shared call: there must be no difference."""
    return bool(request.param)


@pytest.fixture
async def make_fleet(tmp_path: Path, can_relay: bool) -> AsyncIterator[Callable[..., Awaitable[Fleet]]]:
    """Makes fleets; at the end every lease, waiter and task of theirs must be gone."""
    fleets: list[Fleet] = []
    before = asyncio.all_tasks()

    async def make(
        count: int = 2,
        policy: str = "least-load",
        health: HealthSettings = QUICK_HEALTH,
        start: bool = True,
        models: tuple[str, ...] = ("m:latest",),
        max_streams: int = 8,
        clock: Callable[[], float] = time.monotonic,
        **admission: float,
    ) -> Fleet:
        registry = CollectorRegistry()
        metrics = Metrics(registry)
        pool = Pool(health, clock=clock, forget=metrics.forget_worker)
        catalog = OneModel(*models)
        settings = AdmissionSettings(**{"calm_seconds": CALM_SECONDS, **admission})
        dispatcher = Dispatcher(pool, catalog, make_policy(policy), metrics, settings, Random(7))
        registry.register(PoolCollector(pool, lambda: dispatcher.waiting))
        workers = [
            ScriptedWorker(f"w{i}", f"unix:{tmp_path}/f{len(fleets)}-{i}", models, max_streams) for i in range(count)
        ]
        for worker in workers:
            worker.can_relay = can_relay
        fleet = Fleet(pool, dispatcher, workers, registry)
        fleets.append(fleet)
        await dispatcher.__aenter__()
        for worker in workers:
            if start:
                await worker.start()
            pool.apply(Added(worker.name, worker.address, models))
        if start:
            await fleet.all_available()
        return fleet

    yield make
    try:
        for fleet in fleets:
            await _given_back(fleet)
    finally:
        # A server that still runs when its loop is closed would fail the tests that follow.
        for fleet in fleets:
            await fleet.dispatcher.__aexit__()
            await fleet.pool.close()
            for worker in fleet.workers:
                await worker.die()
    expected = before | {asyncio.current_task()}
    for task in asyncio.all_tasks() - expected:
        await asyncio.wait({task}, timeout=10)
    assert [str(task) for task in asyncio.all_tasks() - expected] == []


async def _given_back(fleet: Fleet) -> None:
    """Waits until no request is in flight, and checks that none has left anything behind."""
    await eventually(lambda: fleet.dispatcher.in_flight == 0)
    assert fleet.leases == 0
    assert fleet.dispatcher.waiting == 0
    for worker in fleet.pool.workers():
        load = worker.incarnation.load
        assert (load.streams, load.prompt_tokens, load.kv_tokens) == (0, 0, 0)


READY, STARTING, DRAINING, FAILED = (
    worker_pb2.WORKER_STATE_READY,
    worker_pb2.WORKER_STATE_STARTING,
    worker_pb2.WORKER_STATE_DRAINING,
    worker_pb2.WORKER_STATE_FAILED,
)
