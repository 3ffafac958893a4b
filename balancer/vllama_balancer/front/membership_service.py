"""The gRPC service vllama.v1.Membership: a worker is a member as long as its Join stream lasts."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc

from vllama_balancer.errors import BalancerError
from vllama_balancer.fleet.membership import Offer
from vllama_balancer.front.rpc_errors import rich_status
from vllama_protos.errors import reason_text
from vllama_protos.v1 import membership_pb2, membership_pb2_grpc
from vllama_protos.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    from vllama_balancer.fleet.membership import JoinedFleet

    Context = grpc.aio.ServicerContext[Any, Any]

HEARTBEAT_SECONDS = 1.0
"""Between two answers on an open call."""


class NotAccepted(BalancerError):
    """Workers may not join this balancer."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = reason_text(ErrorReason.ERROR_REASON_JOINING_NOT_ACCEPTED)


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
        with self._joined.lease(offer, request.token) as lease:
            heartbeat = membership_pb2.JoinResponse(listed_as=offer.name)
            heartbeat.heartbeat.FromNanoseconds(int(self._heartbeat_seconds * 1e9))
            heartbeat.lease.FromNanoseconds(int(self._joined.lease_seconds * 1e9))
            while not lease.superseded.is_set():
                await context.write(heartbeat)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat_seconds):
                        await lease.superseded.wait()
