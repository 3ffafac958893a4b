"""Workers that fail, crawl, or are killed by a request: the others do not suffer for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from tests.faults.load import Load, request_of
from vllama_protos.v1 import generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.fleet_process import FleetProcess
    from tests.faults.conftest import Matrix

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.mark.quick
async def test_poison_request(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """10: a request that kills its worker kills two at most, and everybody else is served."""
    running = fleet("--engine-arg", "poison=XYZZY")
    codes = []

    async def poison() -> None:
        async with grpc.aio.insecure_channel(running.target) as channel:
            stub = generation_pb2_grpc.GenerationStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async for _event in stub.Generate(request_of("say XYZZY", 20), timeout=30):
                    pass
            codes.append(refused.value.code())

    outcome = await Load(running.target).run(poison)
    restarts = sum(worker.restarts for worker in running.workers())
    matrix.add("10 poison request", outcome, f"workers lost: {restarts}")
    assert codes == [grpc.StatusCode.INTERNAL]
    assert restarts <= 2
    assert outcome.clean, outcome


async def test_instant_failure_attracts_nobody(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """11: a worker that fails every request at once is not the one that looks idle."""
    running = fleet("--engine-arg", "0.error_rate=1.0")
    outcome = await Load(running.target).run()
    matrix.add("11 one worker fails instantly", outcome)
    assert outcome.clean, outcome


async def test_half_of_the_workers_fail_half_of_their_requests(
    fleet: Callable[..., FleetProcess], matrix: Matrix
) -> None:
    """13: retries hide the failures and stay within their budget."""
    running = fleet("--engine-arg", "0.error_rate=0.5", "--engine-arg", "1.error_rate=0.5")
    outcome = await Load(running.target).run()
    await outcome.note_reroutes(running.url)
    matrix.add("13 half of the workers fail half of the time", outcome, f"retries {outcome.rerouted} of 800")
    assert outcome.complete >= 0.97 * 800, outcome
    assert not outcome.wrong
    assert not outcome.truncated
    # Without ejection a quarter of all tries would fail, and so would a quarter of their retries.
    assert outcome.rerouted <= 800 / 3


async def test_slow_worker_keeps_its_share(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """14: a worker at a fifth of the others' speed gets a fifth of what each other one gets."""
    running = fleet("--engine-arg", "0.speed=0.8")
    outcome = await Load(running.target, clients=16, requests=50).run()
    names = sorted(worker.name for worker in running.workers())
    slow, others = outcome.workers[names[0]], [outcome.workers[name] for name in names[1:]]
    matrix.add("14 one worker five times slower", outcome, f"slow {slow}, others {others}")
    assert outcome.clean, outcome
    # A proportional share is 800 / 16 = 50 of the slow worker's. It must get some, or it would be
    # starved, and far less than the 200 of an even split, or it would hold everybody up.
    assert 0 < slow < 100
