"""Workers that fail, crawl, or are killed by a request: the others do not suffer for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from tests.faults.load import Load, request_of
from tests.faults.recovery import read_recovery
from vllama_protos.v1 import generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.fleet_process import FleetProcess
    from tests.faults.conftest import Matrix
    from tests.faults.load import Outcome

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.mark.quick
async def test_poison_request(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """10: a request that kills its worker kills two and one alone, and all other requests are served."""
    running = fleet("--engine-arg", "poison=XYZZY")
    codes = []

    async def poison() -> None:
        async with grpc.aio.insecure_channel(running.target) as channel:
            stub = generation_pb2_grpc.GenerationStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async for _event in stub.Generate(request_of("say XYZZY", 20), timeout=60):
                    pass
            codes.append(refused.value.code())

    outcome = await Load(running.target).run(poison)
    restarts = sum(worker.restarts for worker in running.workers())
    matrix.add("10 poison request", outcome, f"workers lost: {restarts}")
    assert codes == [grpc.StatusCode.INTERNAL]
    assert restarts <= 3
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
    outcome.recovery = await read_recovery(running.url)
    matrix.add("13 half of the workers fail half of the time", outcome, f"retries {outcome.recovery.rerouted} of 800")
    assert outcome.complete >= 0.97 * 800, outcome
    assert not outcome.wrong
    assert not outcome.truncated
    # Without ejection a quarter of all tries would fail, and so would a quarter of their retries.
    assert outcome.recovery.rerouted <= 800 / 3


def shares(outcome: Outcome, running: FleetProcess) -> tuple[int, list[int]]:
    """Counts the requests of the first worker, and of each other one."""
    names = sorted(worker.name for worker in running.workers())
    return outcome.workers[names[0]], [outcome.workers[name] for name in names[1:]]


async def test_slow_worker_keeps_its_share(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """14: of a load that fills all workers, one of a fifth of the others' speed takes a fifth of each other one's."""
    running = fleet("--engine-arg", "0.speed=0.8", "--max-streams", "4")
    outcome = await Load(running.target, clients=32, requests=25).run()
    slow, others = shares(outcome, running)
    matrix.add("14 one worker five times slower, all full", outcome, f"slow {slow}, others {others}")
    assert outcome.clean, outcome
    # In proportion it is 800 / 16 = 50: a place that falls free is taken at once, and the slow one's do so
    # a fifth as often. On a machine short of processors the others are slowed down more: half to twice.
    assert 25 <= slow <= 100


async def test_slow_worker_is_spared_while_others_have_room(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """14: of a light load it gets less than its proportion: every request is served sooner elsewhere."""
    running = fleet("--engine-arg", "0.speed=0.8")
    outcome = await Load(running.target, clients=16, requests=50).run()
    slow, others = shares(outcome, running)
    matrix.add("14 one worker five times slower, all idle", outcome, f"slow {slow}, others {others}")
    assert outcome.clean, outcome
    assert slow <= 50
