"""Asks one worker whether it lives; whoever wants to know meanwhile shares the answer.

When a worker dies, all its requests want to know it of the next one at the same moment. On a busy machine each answer
takes its time, and one is as good as many.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from vllama_protos.v1 import worker_pb2_grpc


class Inquiry:
    """The question that is open, if any."""

    def __init__(self, stub: worker_pb2_grpc.WorkerAsyncStub) -> None:
        self._stub = stub
        self._open: asyncio.Task[None] | None = None

    def ask(self, patience_seconds: float) -> asyncio.Future[None]:
        """Asks, or joins who has asked already; cancelling it leaves the question open for the others.

        Awaiting it raises AioRpcError when no answer comes.
        """
        if self._open is None or self._open.done():
            self._open = asyncio.create_task(self._answer(patience_seconds), name="ask for a sign of life")
        return asyncio.shield(self._open)

    async def close(self) -> None:
        """Drops the question; who waits for its answer is cancelled."""
        if self._open is not None:
            self._open.cancel()
            await asyncio.gather(self._open, return_exceptions=True)

    async def _answer(self, patience_seconds: float) -> None:
        await self._stub.Describe(worker_pb2.DescribeRequest(), timeout=patience_seconds)
