"""Joins the worker to balancers on other machines, and again whenever a call to one has ended.

The worker keeps one Join call open to each configured balancer. The pause between two tries is constant and short, so
a restart of a balancer costs a fraction of a second. Every try has a connection of its own: a connection that waits
out its own back-off would be late, and renewed certificates are read for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from vllama_protos.v1 import membership_pb2, membership_pb2_grpc
from vllama_server.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from vllama_server.identity import WorkerIdentity

    JoinCall = grpc.aio.UnaryStreamCall[membership_pb2.JoinRequest, membership_pb2.JoinResponse]

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
"""Between two tries."""
REFUSED_PAUSE_SECONDS = 5.0
"""Between two tries at a balancer that refused: only a change of its configuration helps."""
FIRST_ANSWER_SECONDS = 5.0
"""How long the first heartbeat may take."""
MISSED_HEARTBEATS = 3
"""After so many missed heartbeats in a row the balancer counts as gone."""
REFUSALS = frozenset(
    {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT,
     grpc.StatusCode.UNIMPLEMENTED}
)  # fmt: skip
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A try is a new connection and not one more call on the last.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True)
class JoinClient:
    """Keeps one worker joined to its balancers, inside `running`."""

    balancers: Sequence[str]
    """Their gRPC addresses, "host:port"; empty: nothing is done."""
    identity: WorkerIdentity
    address_for: Callable[[str], str]
    """Returns the address under which a balancer reaches this worker."""
    token: str
    """The balancers' token for joining."""
    credentials: Callable[[], grpc.ChannelCredentials] | None = None
    """Returns the credentials of a connection; None: plain text."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Stays joined inside the block."""
        task = asyncio.create_task(self.run(), name="membership")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def run(self) -> None:
        """Stays joined to every balancer until cancelled."""
        await asyncio.gather(*(self._stay_joined(balancer) for balancer in self.balancers))

    async def _stay_joined(self, balancer: str) -> None:
        logged = ""
        while True:
            pause, reason = PAUSE_SECONDS, "it has ended the call"
            try:
                await self._join_once(balancer)
            except grpc.aio.AioRpcError as error:
                reason = error.details() or error.code().name
                pause = REFUSED_PAUSE_SECONDS if error.code() in REFUSALS else PAUSE_SECONDS
            except TimeoutError:
                reason = "it is silent"
            except OSError as error:
                reason = str(error)
            if logged != (logged := reason):
                logger.warning("not joined to %s, trying again: %s", balancer, reason)
            await asyncio.sleep(pause)

    async def _join_once(self, balancer: str) -> None:
        """Joins and returns when the balancer ends the call. Raises AioRpcError, TimeoutError, OSError."""
        request = membership_pb2.JoinRequest(
            token=self.token,
            worker=self.identity.worker,
            boot_id=self.identity.boot_id,
            address=self.address_for(balancer),
            models=self.identity.models,
        )
        async with self._channel(balancer) as channel:
            call = membership_pb2_grpc.MembershipStub(channel).Join(request)
            try:
                await self._listen(call, balancer)
            finally:
                call.cancel()

    async def _listen(self, call: JoinCall, balancer: str) -> None:
        timeout_seconds = FIRST_ANSWER_SECONDS
        listed_as = ""
        while True:
            async with asyncio.timeout(timeout_seconds):
                heartbeat = await call.read()
            if not isinstance(heartbeat, membership_pb2.JoinResponse):
                return  # the end of the stream
            if not listed_as:
                listed_as = heartbeat.listed_as
                logger.info("joined to %s as %s", balancer, listed_as)
            timeout_seconds = MISSED_HEARTBEATS * heartbeat.heartbeat.ToTimedelta().total_seconds()

    def _channel(self, balancer: str) -> grpc.aio.Channel:
        if self.credentials is None:
            return grpc.aio.insecure_channel(balancer, options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(balancer, self.credentials(), options=CHANNEL_OPTIONS)


def read_token(path: str | None) -> str:
    """Reads the token for joining; empty without a file. Raises ConfigError."""
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--join-token-file: {path} cannot be read: {error}; give the balancer's token.") from None


def advertised(given: str | None, listening: str, balancer: str) -> str:
    """Returns the address under which a balancer reaches a worker that listens at `listening` ("host:port").

    `given` is the configured one. Without it, a worker that listens on every address returns the one from which it
    would call that balancer. Raises OSError when there is no route.
    """
    if given is not None:
        return given
    host, _, port = listening.rpartition(":")
    if not is_wildcard(host):
        return listening
    source = _source_address(balancer)
    return f"[{source}]:{port}" if ":" in source else f"{source}:{port}"


def is_wildcard(host: str) -> bool:
    """Returns whether a host to listen at means every address of the machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def _source_address(balancer: str) -> str:
    host, _, port = balancer.rpartition(":")
    family, kind, protocol, _, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # Nothing is sent: the kernel only chooses the route.
        probe.connect(target)
        return str(probe.getsockname()[0])
