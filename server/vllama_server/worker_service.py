"""vllama.v1.Worker: description, reports, drain, sleep and wake, and the Relay call.

Describe and Watch answer from the first moment on, while the engine still loads.
"""

from __future__ import annotations

import asyncio
import platform
from contextlib import aclosing
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from vllama_protos.durations import seconds_of
from vllama_protos.v1 import worker_pb2 as pb
from vllama_protos.v1 import worker_pb2_grpc as pb_grpc
from vllama_server.errors import Draining, InvalidRequest, status_of
from vllama_server.orders import OrderCheck
from vllama_server.wire.responses import description

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

    import grpc

    from vllama_server.engine.protocol import Engine
    from vllama_server.identity import WorkerIdentity
    from vllama_server.lifecycle import Lifecycle
    from vllama_server.limiter import InFlightLimiter
    from vllama_server.relay.relayed_call import RelayedCall
    from vllama_server.reporter import Reporter
    from vllama_server.sleep import SleepSwitch

    Context = grpc.aio.ServicerContext[Any, Any]

DISTRIBUTION = "vllama-serve"
STARTED = frozenset({pb.WORKER_STATE_READY, pb.WORKER_STATE_SLEEPING, pb.WORKER_STATE_DRAINING})
"""States in which the engine can be described."""


class WorkerServicer(pb_grpc.WorkerServicer):
    """Serves the calls about the worker itself; `relayed_call` makes the state of one Relay call."""

    def __init__(
        self,
        engine: Engine,
        limiter: InFlightLimiter,
        identity: WorkerIdentity,
        lifecycle: Lifecycle,
        reporter: Reporter,
        sleep: SleepSwitch,
        relayed_call: Callable[[], RelayedCall],
    ) -> None:
        self._engine = engine
        self._limiter = limiter
        self._identity = identity
        self._lifecycle = lifecycle
        self._reporter = reporter
        self._sleep = sleep
        self._relayed_call = relayed_call
        self._orders = OrderCheck()
        self._described: pb.DescribeResponse | None = None
        self._versions = {"vllama": version(DISTRIBUTION), "python": platform.python_version()}

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:  # noqa: N802
        """Returns what the worker hosts; what only the engine has is missing until it has started."""
        if self._described is None and self._lifecycle.state in STARTED:
            self._described = self._engine.describe()
        return description(self._identity, self._versions, self._described)

    # The generated base class types handlers that return or yield, not coroutines that write.
    async def Watch(self, request: pb.WatchRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Streams reports until the worker or the caller ends."""
        async with aclosing(self._reporter.watch()) as reports:
            async for report in reports:
                await context.write(report)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:  # noqa: N802
        """Refuses new requests until Undrain and waits for the running ones; ends none of them."""
        self._orders.check(context)
        seconds = _deadline_seconds(request)
        self._lifecycle.mark_draining()
        try:
            async with asyncio.timeout(seconds):
                await self._limiter.drained()
        except TimeoutError:
            pass
        return pb.DrainResponse(remaining_streams=self._limiter.in_flight)

    async def Undrain(self, request: pb.UndrainRequest, context: Context) -> pb.UndrainResponse:  # noqa: N802
        """Takes requests again."""
        self._orders.check(context)
        if not self._lifecycle.mark_undrained():
            raise Draining("the worker is about to end, and does not take its drain back.")
        return pb.UndrainResponse()

    async def Relay(self, request_iterator: AsyncIterable[pb.RelayRequest], context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Carries generations until the requests, the worker or the caller end."""
        try:
            await self._relayed_call().serve(request_iterator, context, self._lifecycle.closed())
        except InvalidRequest as error:
            await context.abort(status_of(error), str(error))

    async def Sleep(self, request: pb.SleepRequest, context: Context) -> pb.SleepResponse:  # noqa: N802
        """Finishes what runs and frees the device's memory."""
        self._orders.check(context)
        await self._sleep.sleep()
        return pb.SleepResponse()

    async def Wake(self, request: pb.WakeRequest, context: Context) -> pb.WakeResponse:  # noqa: N802
        """Serves again."""
        self._orders.check(context)
        await self._sleep.wake()
        return pb.WakeResponse()


def _deadline_seconds(request: pb.DrainRequest) -> float | None:
    if not request.HasField("deadline"):
        return None
    seconds = seconds_of(request.deadline)
    if seconds < 0:
        raise InvalidRequest("deadline is negative; give 0 or more, or leave it unset.", "deadline")
    return seconds
