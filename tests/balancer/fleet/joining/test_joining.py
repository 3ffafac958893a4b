"""Workers of other machines join over mutual TLS, stay, rejoin and are never counted twice."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.balancer.fleet.joining.conftest import OPTIONS
from vllama_balancer.certificates.folder import CertificateFolder
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc, membership_pb2, membership_pb2_grpc

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.balancer.fleet.joining.conftest import Certificates, JoinedBalancer

    Worker = Callable[..., subprocess.Popen[bytes]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def ready(count: int) -> Callable[[list[fleet_pb2.WorkerStatus]], bool]:
    """Makes a condition: exactly so many workers are listed, and all take requests."""
    return lambda workers: len(workers) == count and all(worker.available for worker in workers)


async def test_one_worker_serves_two_balancers(balancer: Callable[..., JoinedBalancer], worker: Worker) -> None:
    """It joins both, each lists it once, and both have their answers from it."""
    one, two = balancer(), balancer()
    worker("gpu7", f"{one.target},{two.target}")
    await one.until(ready(1))
    await two.until(ready(1))
    wrong = await asyncio.gather(one.ask(10, 20), two.ask(10, 20, first=100))
    assert wrong == [[], []]


async def test_a_restarted_balancer_has_its_workers_back_at_once(
    balancer: Callable[..., JoinedBalancer], worker: Worker
) -> None:
    """Killed and started again at the same port, it lists both workers, each once, with their old boot ids."""
    one = balancer()
    for name in ("gpu7", "gpu8"):
        worker(name, one.target)
    await one.until(ready(2))
    lives = {status.name: status.description.boot_id for status in one.workers()}
    one.kill()
    one.start()
    await one.until(lambda workers: True)
    begun = time.monotonic()
    await one.until(lambda workers: len(workers) == 2)
    registered = time.monotonic() - begun
    await one.until(ready(2))
    print(f"both workers were registered {registered:.2f} s after the balancer answered again")
    # Two seconds are promised; the rest is for a busy machine.
    assert registered < 6
    assert {status.name: status.description.boot_id for status in one.workers()} == lives
    assert await one.ask(10, 20) == []


async def test_requests_right_after_a_restart_wait_for_the_workers_to_come_back(
    balancer: Callable[..., JoinedBalancer], worker: Worker
) -> None:
    """They are sent as soon as the balancer answers, before it has a worker or a model."""
    one = balancer()
    worker("gpu7", one.target)
    await one.until(ready(1))
    one.kill()
    one.start()
    await one.until(lambda workers: True)
    assert await one.ask(10, 20) == []


async def test_a_worker_that_ends_leaves(balancer: Callable[..., JoinedBalancer], worker: Worker) -> None:
    """After SIGTERM its requests go elsewhere, and it is off the list when its lease has expired."""
    one = balancer()
    leaving = worker("gpu7", one.target)
    worker("gpu8", one.target)
    await one.until(ready(2))
    leaving.terminate()
    assert await one.ask(10, 20) == []
    await one.until(ready(1))


async def test_certificate_and_token_are_required(
    balancer: Callable[..., JoinedBalancer], certificates: Certificates
) -> None:
    """Plain text fails at the connection, a wrong token at the call."""
    one = balancer()
    await one.until(lambda workers: True)
    offer = membership_pb2.JoinRequest(token="wrong", worker="x", boot_id="x", address="10.0.0.9:1")
    async with grpc.aio.insecure_channel(one.target) as plain:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await fleet_pb2_grpc.FleetStub(plain).ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=10)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    async with grpc.aio.secure_channel(one.target, certificates.credentials(), OPTIONS) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await membership_pb2_grpc.MembershipStub(channel).Join(offer, timeout=10).read()
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert one.workers() == []


async def test_renewed_certificates_serve_without_a_restart(
    balancer: Callable[..., JoinedBalancer], worker: Worker, certificates: Certificates
) -> None:
    """After a change of authority new connections use the new certificates, and old ones stay open."""
    one = balancer()
    worker("gpu7", one.target)
    await one.until(ready(1))
    CertificateFolder(certificates.path).rotate(authority=True)
    assert await one.ask(5, 20) == []
    worker("gpu8", one.target)
    await one.until(ready(2))
    assert await one.ask(10, 20, first=50) == []
