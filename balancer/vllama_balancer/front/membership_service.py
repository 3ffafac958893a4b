"""The gRPC service vllama.v1.Membership: a worker is a member as long as its Join stream lasts."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc

from vllama_balancer.errors import BalancerError, InvalidRequest
from vllama_balancer.fleet.membership import NotAccepted, Offer
from vllama_balancer.front.rpc_errors import rich_status
from vllama_protos.certificate_roles import hosts_of_caller
from vllama_protos.v1 import membership_pb2, membership_pb2_grpc

if TYPE_CHECKING:
    from vllama_balancer.fleet.membership import JoinedFleet

    Context = grpc.aio.ServicerContext[Any, Any]

HEARTBEAT_SECONDS = 1.0
"""Between two answers on an open call."""


class MembershipService(membership_pb2_grpc.MembershipServicer):
    """The Membership service; without a fleet to join it refuses every worker."""

    def __init__(self, joined: JoinedFleet | None, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._joined = joined
        self._heartbeat_seconds = heartbeat_seconds

    # The generated base class declares handlers that return or yield, not coroutines that write.
    async def Join(self, request: membership_pb2.JoinRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Lists a worker until its call ends."""
        try:
            await self._keep(request, context)
        except BalancerError as error:
            await context.abort_with_status(rich_status(error))
        await context.abort(grpc.StatusCode.ABORTED, "a later call for this address has taken this one's place")

    async def _keep(self, request: membership_pb2.JoinRequest, context: Context) -> None:
        if self._joined is None:
            raise NotAccepted("this balancer takes no joining workers; start it with --join-token-file")
        offer = Offer(request.worker, request.boot_id, request.address, tuple(request.models))
        self._joined.check_token(request.token)
        _check_certificate(context, offer.address)
        with self._joined.lease(offer, request.token) as lease:
            heartbeat = membership_pb2.JoinResponse(listed_as=offer.name)
            heartbeat.heartbeat.FromNanoseconds(int(self._heartbeat_seconds * 1e9))
            heartbeat.lease.FromNanoseconds(int(self._joined.lease_seconds * 1e9))
            while not lease.superseded.is_set():
                await context.write(heartbeat)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat_seconds):
                        await lease.superseded.wait()


def _check_certificate(context: Context, address: str) -> None:
    """Raises InvalidRequest when the caller's certificate is not for the host that it offers.

    The balancer verifies the certificate of an address when it calls it. So an address that passes both is the
    caller's own, and a holder of the token cannot make the balancer call other machines.
    """
    names = hosts_of_caller(context)
    host = address.rpartition(":")[0].strip("[]").lower()
    if names and not any(_is_for(name.lower(), host) for name in names):
        hosts = ", ".join(names)
        raise InvalidRequest(f"address: the worker's certificate is for {hosts}, not for {host}", field="address")


def _is_for(name: str, host: str) -> bool:
    """Returns whether a name of a certificate, which may begin with a wildcard, covers a host."""
    return host == name or (name.startswith("*.") and host.partition(".")[2] == name[2:])
