"""A worker's calls to the balancers that it is configured to join."""

import asyncio
import socket

import grpc
import pytest

from vllama_protos.v1 import membership_pb2, membership_pb2_grpc
from vllama_server.config import parse
from vllama_server.errors import ConfigError
from vllama_server.identity import WorkerIdentity
from vllama_server.join import JoinClient, advertised

IDENTITY = WorkerIdentity("gpu7", ("m:latest",), "boot")


class ScriptedBalancer(membership_pb2_grpc.MembershipServicer):
    """A balancer that a test controls."""

    def __init__(self, refusals=0, silent=False):
        self.calls = asyncio.Queue()
        self.refusals = refusals
        self.silent = silent

    async def Join(self, request, context):
        self.calls.put_nowait(request)
        if self.refusals:
            self.refusals -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        heartbeat = membership_pb2.JoinResponse(listed_as="gpu7@here")
        heartbeat.heartbeat.FromMilliseconds(50)
        await context.write(heartbeat)
        while not self.silent:
            await asyncio.sleep(0.05)
            await context.write(heartbeat)
        await asyncio.Event().wait()

    async def start(self, port=0):
        """Serves on a port of the loopback."""
        self.server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        membership_pb2_grpc.add_MembershipServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()
        return self

    async def called(self):
        """The next call's request."""
        async with asyncio.timeout(20):
            return await self.calls.get()


@pytest.fixture
async def balancer():
    """Makes scripted balancers; stops them."""
    made = []

    async def make(*arguments, port=0, **keywords):
        made.append(await ScriptedBalancer(*arguments, **keywords).start(port))
        return made[-1]

    yield make
    for one in made:
        await one.server.stop(None)


def client_of(*balancers):
    """A worker that joins them."""
    targets = [f"127.0.0.1:{one.port}" for one in balancers]
    return JoinClient(targets, IDENTITY, lambda balancer: "10.0.0.7:50061", "secret")


async def test_a_worker_sends_its_identity_and_address(balancer):
    """The request has token, name, boot id, address and models."""
    one = await balancer()
    async with client_of(one).running():
        assert await one.called() == membership_pb2.JoinRequest(
            token="secret", worker="gpu7", boot_id="boot", address="10.0.0.7:50061", models=["m:latest"]
        )


async def test_a_worker_joins_every_balancer(balancer):
    """One that is away does not keep it from the others."""
    one, two, gone = await balancer(), await balancer(), await balancer()
    await gone.server.stop(None)
    async with client_of(gone, one, two).running():
        await one.called()
        await two.called()


async def test_a_refused_worker_tries_again(balancer):
    """After any refusal."""
    one = await balancer(refusals=2)
    async with client_of(one).running():
        for _ in range(3):
            await one.called()


async def test_a_balancer_that_falls_silent_is_called_again(balancer):
    """Heartbeats that do not come mean that the call is dead, whatever the connection says."""
    one = await balancer(silent=True)
    async with client_of(one).running():
        await one.called()
        await one.called()


async def test_a_restarted_balancer_is_joined_soon(balancer):
    """The balancer ends and another begins at the same port."""
    loop = asyncio.get_running_loop()
    one = await balancer()
    async with client_of(one).running():
        await one.called()
        await one.server.stop(None)
        begun = loop.time()
        again = await balancer(port=one.port)
        await again.called()
    # Two seconds are the limit; the rest is for a busy machine.
    assert loop.time() - begun < 5


def test_the_address_is_the_configured_one_or_where_the_worker_listens():
    """Only "every address" has to be replaced by one of them."""
    assert advertised("gpu7.example:1", "0.0.0.0:50061", "10.0.0.1:50051") == "gpu7.example:1"
    assert advertised(None, "10.0.0.7:50061", "10.0.0.1:50051") == "10.0.0.7:50061"
    assert advertised(None, "0.0.0.0:50061", "127.0.0.1:50051") == "127.0.0.1:50061"
    if socket.has_ipv6:
        assert advertised(None, "[::]:50061", "127.0.0.1:50051") == "127.0.0.1:50061"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--join", "10.0.0.1:50051"], "--join-token-file"),
        (["--join", "10.0.0.1:50051", "--join-token-file", __file__], "no other machine reaches"),
        (["--join", "127.0.0.1:1", "--join-token-file", __file__, "--listen", "unix:/tmp/x"], "TCP address"),
        (["--join", "nonsense", "--join-token-file", __file__], "--join"),
        (["--tls-ca", __file__], "--tls-ca"),
    ],
)
def test_an_unreachable_worker_is_refused(flags, said):
    """Each refusal names a flag and the fix."""
    with pytest.raises(ConfigError, match=said):
        parse(["m", "--engine", "fake", *flags], {})


def test_several_balancers_stand_in_one_flag():
    """Separated by commas."""
    config = parse(["m", "--join", "127.0.0.1:1,127.0.0.1:2", "--join-token-file", __file__], {})
    assert config.joins == ("127.0.0.1:1", "127.0.0.1:2")
