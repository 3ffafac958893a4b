"""The Membership service, through a real channel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from vllama_balancer.certificates.folder import CertificateFolder
from vllama_balancer.fleet.events import Added, Removed
from vllama_balancer.fleet.membership import JoinedFleet
from vllama_balancer.front.membership_service import MembershipService
from vllama_protos.v1 import membership_pb2, membership_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOKEN = "a-token-that-is-long-enough"


def offer(**fields: str) -> membership_pb2.JoinRequest:
    """A worker's offer."""
    usual = {"token": TOKEN, "worker": "gpu7", "boot_id": "boot", "address": "10.0.0.7:50061"}
    return membership_pb2.JoinRequest(**(usual | fields))


class Served:
    """A server with the service alone, and a stub for it."""

    def __init__(self, fleet: JoinedFleet | None) -> None:
        self.server = grpc.aio.server()
        membership_pb2_grpc.add_MembershipServicer_to_server(MembershipService(fleet, 0.02), self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = membership_pb2_grpc.MembershipStub(self.channel)


@pytest.fixture
async def fleet() -> JoinedFleet:
    """A fleet to join, with a lease of a moment."""
    return JoinedFleet(TOKEN, lease_seconds=0.05)


@pytest.fixture
async def served(fleet: JoinedFleet) -> AsyncIterator[Served]:
    """The service of the fleet."""
    made = Served(fleet)
    await made.server.start()
    yield made
    await made.channel.close()
    await made.server.stop(None)


async def next_event(fleet: JoinedFleet) -> object:
    """Returns the fleet's next event."""
    async with asyncio.timeout(20):
        return await anext(fleet.events())


async def test_a_worker_gets_heartbeats_and_is_listed_while_its_call_lasts(served: Served, fleet: JoinedFleet) -> None:
    """The end of the call ends the membership, one lease later."""
    call = served.stub.Join(offer())
    first, second = await call.read(), await call.read()
    assert first == second
    assert first.listed_as == "gpu7@10.0.0.7:50061"
    assert first.heartbeat.ToMilliseconds() == 20 and first.lease.ToMilliseconds() == 50
    assert isinstance(await next_event(fleet), Added)
    call.cancel()
    assert isinstance(await next_event(fleet), Removed)


async def test_a_later_call_ends_the_earlier_one(served: Served) -> None:
    """The earlier call ends with the reason."""
    first = served.stub.Join(offer())
    await first.read()
    second = served.stub.Join(offer())
    await second.read()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        while await first.read():
            pass
    assert error.value.code() is grpc.StatusCode.ABORTED
    second.cancel()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"token": "wrong"}, grpc.StatusCode.UNAUTHENTICATED),
        ({"address": "nowhere"}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_wrong_offer_is_refused(served: Served, fields: dict[str, str], code: grpc.StatusCode) -> None:
    """Each with its status."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await served.stub.Join(offer(**fields)).read()
    assert error.value.code() is code


async def test_a_balancer_without_a_token_refuses() -> None:
    """FAILED_PRECONDITION with the flag to give."""
    closed = Served(None)
    await closed.server.start()
    try:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await closed.stub.Join(offer()).read()
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "--join-token-file" in (error.value.details() or "")
    finally:
        await closed.channel.close()
        await closed.server.stop(None)


@pytest.mark.parametrize(
    ("hosts", "address", "is_taken"),
    [
        (["10.0.0.7"], "10.0.0.7:50061", True),
        (["10.0.0.7"], "10.0.0.8:50061", False),
        (["10.0.0.7"], "169.254.169.254:80", False),
        (["gpu7.example", "10.0.0.7"], "gpu7.example:50061", True),
        (["*.gpus.example"], "a.gpus.example:50061", True),
        (["*.gpus.example"], "a.b.gpus.example:50061", False),
    ],
)
async def test_a_worker_offers_only_what_its_certificate_names(
    tmp_path: Path, fleet: JoinedFleet, hosts: list[str], address: str, is_taken: bool
) -> None:
    """The token alone does not make the balancer call another machine."""
    certificates = CertificateFolder(tmp_path)
    certificates.init()
    files = [path.read_bytes() for path in reversed(certificates.issue("localhost", ["localhost"]))]
    ours = [path.read_bytes() for path in reversed(certificates.issue("worker", hosts))]
    authority = (tmp_path / "ca.pem").read_bytes()
    server = grpc.aio.server()
    membership_pb2_grpc.add_MembershipServicer_to_server(MembershipService(fleet, 0.02), server)
    port = server.add_secure_port(
        "localhost:0", grpc.ssl_server_credentials([(files[0], files[1])], authority, require_client_auth=True)
    )
    await server.start()
    credentials = grpc.ssl_channel_credentials(authority, *ours)
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        call = membership_pb2_grpc.MembershipStub(channel).Join(offer(address=address))
        if is_taken:
            assert await call.read()
            call.cancel()
        else:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call.read()
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "certificate is for" in str(error.value.details())
    await server.stop(None)
