"""Keeps one Watch stream to a worker open and applies its reports, for as long as the worker is in the pool."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from vllama_balancer.workers.attempt_errors import NOT_CONNECTED
from vllama_balancer.workers.channel import is_local
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.workers.worker import Worker

DESCRIBE_TIMEOUT_SECONDS = 5.0
"""A worker answers Describe at once, also while it loads."""
FIRST_RETRY_SECONDS = 0.1
"""Delay after a lost Watch stream; doubles up to a second, so that a restarted worker is found soon."""
MAX_RETRY_SECONDS = 1.0
"""Limit of the doubling."""
MAX_LOCAL_RETRY_SECONDS = 0.2
"""The same for a unix socket, where an attempt costs next to nothing."""


class Watcher:
    """Reads one worker's reports and updates the worker."""

    def __init__(self, worker: Worker, reopen: Callable[[Worker], str] = lambda _: "") -> None:
        """Calls `reopen` when the connection is lost; it returns why the worker's channel cannot be opened anew."""
        self._worker = worker
        self._reopen = reopen
        self._described = ("", worker_pb2.WORKER_STATE_UNSPECIFIED)
        self._max_retry = MAX_LOCAL_RETRY_SECONDS if is_local(worker.address) else MAX_RETRY_SECONDS

    async def run(self) -> None:
        """Watches until cancelled; reconnects with backoff."""
        wait = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._follow()
                wait = FIRST_RETRY_SECONDS
            except grpc.aio.AioRpcError as error:
                # A worker that has reported since is retried soon, one that stays away less often.
                wait = FIRST_RETRY_SECONDS if self._worker.is_connected else min(wait * 2, self._max_retry)
                self._worker.disconnected(self._reopen(self._worker) or self._describe_error(error))
            await asyncio.sleep(wait)

    def _describe_error(self, error: grpc.aio.AioRpcError) -> str:
        details = error.details() or error.code().name
        return f"nothing answers at {self._worker.address}" if details.startswith(NOT_CONNECTED) else details

    async def _follow(self) -> None:
        call = self._worker.channel.worker.Watch(worker_pb2.WatchRequest())
        try:
            async for report in call:
                await self._describe_if_new(report)
                self._worker.take_report(report)
        finally:
            call.cancel()

    async def _describe_if_new(self, report: worker_pb2.WorkerReport) -> None:
        """Requests the description of a new incarnation, and again when its engine has loaded."""
        seen = (report.boot_id, report.state)
        if seen == self._described or report.state == worker_pb2.WORKER_STATE_FAILED:
            return
        if report.boot_id == self._described[0] and report.state != worker_pb2.WORKER_STATE_READY:
            if report.state == worker_pb2.WORKER_STATE_SLEEPING:
                # Sleep empties its caches: the description is requested again when it wakes.
                self._described = seen
            return
        description = await self._worker.channel.worker.Describe(
            worker_pb2.DescribeRequest(), timeout=DESCRIBE_TIMEOUT_SECONDS
        )
        self._worker.describe(description)
        self._described = (description.boot_id, report.state)
