"""A model without a known worker may be announced by a new one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.events import Added
from vllama_balancer.gateway import ModelEntry
from vllama_balancer.workers.breaker import HealthSettings
from vllama_balancer.workers.discovery_grace import DiscoveryGrace
from vllama_balancer.workers.pool import Pool
from vllama_balancer.workers.worker import Worker
from vllama_protos.v1 import worker_pb2


class ReadyPool(Pool):
    """A pool of workers without connections, on the loop's clock."""

    def __init__(self) -> None:
        super().__init__(clock=asyncio.get_running_loop().time)

    def join(self, name: str, *models: str) -> Worker:
        """Adds a worker that has not announced its models."""
        worker = Worker(Added(name, "unused", models), None, HealthSettings(), self.changes, self._clock)  # type: ignore[arg-type]
        self._workers[name] = worker
        self.changes.increment()
        return worker

    def find_model(self, name: str) -> ModelEntry | None:
        """Finds a model as a catalog would."""
        hosts = [worker for worker in self.workers() if worker.description and name in worker.description.models]
        return ModelEntry(name, "0" * 64, 1, datetime(2026, 1, 1, tzinfo=UTC)) if hosts else None


def introduce(worker: Worker, *models: str) -> None:
    """Makes a worker announce its models."""
    worker.describe(worker_pb2.DescribeResponse(boot_id=f"{worker.name}-1", models=models, max_streams=1))


async def settle() -> None:
    """Runs every task as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def pool() -> ReadyPool:
    """A pool without workers."""
    return ReadyPool()


async def test_a_model_is_found_once_its_worker_announces_it(pool: ReadyPool) -> None:
    """The worker was added by address, and the request came first."""
    worker = pool.join("w0")
    search = asyncio.create_task(DiscoveryGrace(pool).find("m:latest", pool.find_model))
    await settle()
    assert not search.done()
    introduce(worker, "m:latest")
    entry = await search
    assert entry is not None and entry.name == "m:latest"


async def test_a_worker_that_joins_again_brings_its_model(pool: ReadyPool) -> None:
    """The balancer was restarted, and its pool is empty for a moment."""
    search = asyncio.create_task(DiscoveryGrace(pool, rejoin_seconds=60).find("m:latest", pool.find_model))
    await settle()
    introduce(pool.join("w0"), "n:latest")
    await settle()
    assert not search.done()
    introduce(pool.join("w1"), "m:latest")
    assert await search is not None


async def test_there_is_no_wait_when_every_worker_is_known(pool: ReadyPool) -> None:
    """A wrong name is not found at once."""
    introduce(pool.join("w0"), "n:latest")
    assert await DiscoveryGrace(pool, only_remote_workers=True).find("m:latest", pool.find_model) is None


async def test_a_worker_that_is_known_to_serve_another_model_is_not_waited_for(pool: ReadyPool) -> None:
    """A local worker's models are known before it has started."""
    pool.join("w0", "n:latest")
    assert await DiscoveryGrace(pool).find("m:latest", pool.find_model) is None


async def test_a_silent_worker_is_waited_for_only_so_long(pool: ReadyPool) -> None:
    """An address without a worker delays "not found" only so long."""
    pool.join("w0")
    introduce(pool.join("w1"), "n:latest")
    grace = DiscoveryGrace(pool, announce_seconds=0.05, only_remote_workers=True)
    assert await grace.find("m:latest", pool.find_model) is None


async def test_without_any_known_worker_no_model_is_not_found(pool: ReadyPool) -> None:
    """The workers are missing, and the caller may retry."""
    grace = DiscoveryGrace(pool, rejoin_seconds=0.02, only_remote_workers=True)
    with pytest.raises(NoWorker, match="no worker has told yet") as caught:
        await grace.find("m:latest", pool.find_model)
    assert caught.value.retry_after_seconds


async def test_the_wait_ends_at_the_deadline(pool: ReadyPool) -> None:
    """Not as a model that does not exist."""
    pool.join("w0")
    deadline = asyncio.get_running_loop().time() + 0.02
    with pytest.raises(NoWorker):
        await DiscoveryGrace(pool).find("m:latest", pool.find_model, deadline)
