"""Follows one worker's reports for as long as the worker is in the pool."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc

from vllama_balancer.workers.channel import is_local
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from vllama_balancer.workers.worker import Worker

logger = logging.getLogger(__name__)

DESCRIBE_TIMEOUT_SECONDS = 5.0
"""A worker answers Describe at once, also while it loads."""
FIRST_RETRY_SECONDS = 0.1
"""Wait after a lost Watch stream; doubles up to a second, at which a restarted worker is soon found."""
LONGEST_RETRY_SECONDS = 1.0
"""Bound of the doubling."""
LONGEST_LOCAL_RETRY_SECONDS = 0.2
"""The same for a socket of this machine, where a try costs next to nothing."""
_NOBODY = "failed to connect to all addresses"
"""How gRPC begins to say that a call has not left this process."""


class Watcher:
    """Keeps one Watch stream open and tells the worker object what comes."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._described = ("", worker_pb2.WORKER_STATE_UNSPECIFIED)
        self._longest_retry = LONGEST_LOCAL_RETRY_SECONDS if is_local(worker.address) else LONGEST_RETRY_SECONDS

    async def run(self) -> None:
        """Watches, again and again, until cancelled."""
        wait = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._follow()
                wait = FIRST_RETRY_SECONDS
            except grpc.aio.AioRpcError as error:
                # A worker that has reported in between is tried soon, one that stays away more rarely.
                wait = FIRST_RETRY_SECONDS if self._worker.is_connected else min(wait * 2, self._longest_retry)
                self._worker.disconnected(self._in_words(error))
            await asyncio.sleep(wait)

    def _in_words(self, error: grpc.aio.AioRpcError) -> str:
        details = error.details() or error.code().name
        return f"nobody answers at {self._worker.address}" if details.startswith(_NOBODY) else details

    async def _follow(self) -> None:
        call = self._worker.channel.worker.Watch(worker_pb2.WatchRequest())
        try:
            async for report in call:
                await self._describe_if_new(report)
                self._worker.take_report(report)
        finally:
            call.cancel()

    async def _describe_if_new(self, report: worker_pb2.WorkerReport) -> None:
        """Asks what the worker is when a life begins, and again when its engine has loaded and knows more."""
        seen = (report.boot_id, report.state)
        if seen == self._described or report.state == worker_pb2.WORKER_STATE_FAILED:
            return
        if report.boot_id == self._described[0] and report.state != worker_pb2.WORKER_STATE_READY:
            if report.state == worker_pb2.WORKER_STATE_SLEEPING:
                # Its caches are lost meanwhile: it is asked again when it wakes.
                self._described = seen
            return
        description = await self._worker.channel.worker.Describe(
            worker_pb2.DescribeRequest(), timeout=DESCRIBE_TIMEOUT_SECONDS
        )
        self._worker.describe(description)
        self._described = (description.boot_id, report.state)
