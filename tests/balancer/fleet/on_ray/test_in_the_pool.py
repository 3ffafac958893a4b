"""Workers that a cluster places, loses and places again, in the pool."""

from __future__ import annotations

import asyncio

from vllama_balancer.fleet.events import Added, Changed, ProcessState
from vllama_balancer.startup.model_setup import first_readiness
from vllama_balancer.workers.pool import Pool

UNPLACED = Added("worker-0", "", ("m:latest",), is_supervised=True)
PLACING = Changed("worker-0", ProcessState.PLACING, "waits for a node with 1 free GPU")


async def test_requests_wait_for_an_unplaced_worker_and_for_one_that_starts() -> None:
    """Neither is hopeless: the cluster will have room, or the process will open its port."""
    pool = Pool()
    try:
        pool.apply(UNPLACED)
        pool.apply(PLACING)
        (key,) = pool.workers()[0].keys
        assert not pool.is_hopeless(key)
        assert "waits for a node" in pool.workers()[0].unavailable
        pool.apply(Added("worker-0", "127.0.0.1:1", ("m:latest",), is_supervised=True))
        assert not pool.is_hopeless(key)
        pool.apply(Changed("worker-0", ProcessState.FAILED, "failed to start 3 times"))
        assert pool.is_hopeless(key)
    finally:
        await pool.close()


async def test_readiness_does_not_wait_for_an_unplaced_worker() -> None:
    """A fleet larger than its cluster still becomes ready; with nothing but waiting workers it does not."""
    pool = Pool()
    try:
        pool.apply(UNPLACED)
        pool.apply(PLACING)
        waiting = asyncio.create_task(first_readiness(pool))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
    finally:
        await pool.close()
