"""Rolling restart: takes workers out of service and back, one at a time, without a failed request.

A worker is drained in two phases. While its streams finish, it is only held: the order can be taken back, and is when
its caller leaves. From the moment its process is being ended the order goes on to its end, with or without a caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from vllama_balancer.errors import BalancerError
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.gateway import LONGEST_SECONDS
from vllama_balancer.workers.attempt_errors import FailureKind
from vllama_protos.durations import set_seconds
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from vllama_balancer.fleet.events import Changed, FleetControl
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""How long after its deadline a worker may still answer Drain, and how long it may take for Undrain."""
POLL_SECONDS = 0.02
"""Time between two looks at the streams of a worker that is drained."""
MOST_RESTARTS = 3
"""A restarted worker whose process has been started so many times does not come back."""


class OrderFailed(BalancerError):
    """An order to a worker that cannot be carried out; the message says why."""

    status = grpc.StatusCode.FAILED_PRECONDITION


@dataclass(eq=False, slots=True)
class _Order:
    """A drain or a restart of one worker."""

    is_final: bool = False
    """Whether its process is being ended, so that there is no way back."""
    task: asyncio.Task[int] | None = None


class RollingRestart:
    """Drains, restarts and puts back single workers. Close it before the fleet."""

    def __init__(self, pool: Pool, control: FleetControl | None, drain_seconds: float = 30.0) -> None:
        """Without a control, workers can be drained but not restarted. `drain_seconds` bounds a drain by default."""
        self._pool = pool
        self._control = control
        self._drain_seconds = drain_seconds
        self._one_at_a_time = asyncio.Lock()
        self._orders: dict[str, _Order] = {}

    def can_restart(self, name: str) -> bool:
        """Returns whether the worker was started by this balancer."""
        return self._control is not None and self._control.owns(name)

    async def drain(self, name: str, deadline_seconds: float | None) -> int:
        """Takes a worker out for good and returns how many streams still ran at the deadline.

        A worker that was started by this balancer is ended afterwards; its remaining streams move to others. A caller
        that leaves before leaves the worker in service. Raises OrderFailed.
        """
        seconds = self._drain_seconds if deadline_seconds is None else deadline_seconds
        return await self._carry_out(name, lambda worker, order: self._drain(worker, order, seconds))

    async def restart(self, name: str) -> None:
        """Drains a worker, restarts its process, and returns when the new incarnation is available.

        A caller that leaves during the drain leaves the worker in service; later the restart goes on without it.
        Raises OrderFailed when the worker does not come back.
        """
        await self._carry_out(name, self._restart)

    async def undrain(self, name: str) -> None:
        """Takes a drain back, whether it runs or is over: the worker takes requests again. Raises OrderFailed."""
        order, worker = self._orders.get(name), self._pool.find(name)
        if order is not None and order.is_final:
            raise OrderFailed(f"worker {name} is being ended or restarted already")
        if order is not None and order.task is not None:
            order.task.cancel()
            await asyncio.wait({order.task})
        elif worker is None or not worker.held:
            raise OrderFailed(f"worker {name} is not drained by this balancer")
        if worker is not None and (refusal := await _put_back(worker)):
            raise OrderFailed(refusal)

    async def close(self) -> None:
        """Ends every order."""
        tasks = [order.task for order in self._orders.values() if order.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, name: str, work: Callable[[Worker, _Order], Coroutine[Any, Any, int]]) -> int:
        """Runs an order in a task of its own, which its caller cancels while there is a way back."""
        worker = self._pool.find(name)
        if worker is None:
            return 0
        if name in self._orders:
            raise OrderFailed(f"worker {name} is being drained or restarted already")
        order = self._orders[name] = _Order()
        order.task = task = asyncio.create_task(work(worker, order), name=f"order for {name}")
        task.add_done_callback(lambda _: self._done(name, task))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise OrderFailed(f"the drain of worker {name} was taken back") from None
            if not order.is_final:
                task.cancel()
            raise

    def _done(self, name: str, task: asyncio.Task[int]) -> None:
        del self._orders[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its caller may have left.
            logger.warning("order for worker %s failed: %s", name, error)

    async def _drain(self, worker: Worker, order: _Order, seconds: float) -> int:
        async with self._held(worker, order):
            remaining = await _finish_streams(worker, seconds)
            if self._control is not None and self._control.owns(worker.name):
                order.is_final = True
                _move_streams(worker)
                await self._control.retire(worker.name)
        return remaining

    async def _restart(self, worker: Worker, order: _Order) -> int:
        if self._control is None:
            return 0
        async with self._one_at_a_time, self._held(worker, order):
            may_leave = worker.report is not None and worker.report.state == worker_pb2.WORKER_STATE_SLEEPING
            await _finish_streams(worker, self._drain_seconds)
            order.is_final = True
            _move_streams(worker)
            boot_id, before = worker.incarnation.boot_id, worker.process
            restarting = asyncio.create_task(self._control.restart(worker.name), name=f"restart of {worker.name}")
            try:
                await self._new_incarnation(worker.name, boot_id, before, restarting, may_leave=may_leave)
            finally:
                restarting.cancel()
                await asyncio.gather(restarting, return_exceptions=True)
                if (current := self._pool.find(worker.name)) is not None:
                    current.unhold()
        return 0

    @contextlib.asynccontextmanager
    async def _held(self, worker: Worker, order: _Order) -> AsyncIterator[None]:
        """Keeps new requests from a worker; a cancellation of the block puts it back while there is a way back."""
        worker.hold("it is drained")
        try:
            yield
        except asyncio.CancelledError:
            if not order.is_final and (refusal := await _put_back(worker)):
                logger.warning("%s", refusal)
            raise

    async def _new_incarnation(
        self, name: str, old_boot_id: str, before: Changed, restarting: asyncio.Task[None], *, may_leave: bool
    ) -> None:
        """Returns when a restarted worker serves again. Raises OrderFailed when it does not come back.

        One that slept may leave instead: the scheduler ends a sleeper whose process has ended.
        """
        restarting.add_done_callback(lambda _: self._pool.changes.increment())
        while True:
            version = self._pool.changes.version
            worker = self._pool.find(name)
            if worker is not None and worker.incarnation.boot_id != old_boot_id and not worker.unavailable:
                return
            if may_leave and (worker is None or worker.process.state is ProcessState.STOPPED):
                return
            if restarting.done() and not restarting.cancelled() and (error := restarting.exception()) is not None:
                raise OrderFailed(f"worker {name} could not be restarted: {error}")
            if worker is None:
                raise OrderFailed(f"worker {name} did not come back: it has left")
            if worker.process is not before and _is_given_up(worker.process, before):
                raise OrderFailed(f"worker {name} did not come back: it {worker.process.reason or 'was stopped'}")
            await self._pool.changes.after(version)


def _is_given_up(process: Changed, before: Changed) -> bool:
    """Returns whether a restarted process does not come back: its supervisor says so, or it ends again and again."""
    is_over = process.state in (ProcessState.FAILED, ProcessState.STOPPED)
    return is_over or process.restarts - before.restarts >= MOST_RESTARTS


async def _finish_streams(worker: Worker, seconds: float) -> int:
    """Waits for a worker's streams, those of other balancers too; returns how many are left after the time.

    A worker that begins a new incarnation meanwhile has none left.
    """
    incarnation, clock = worker.incarnation, asyncio.get_running_loop().time
    deadline = clock() + min(max(seconds, 0.0), LONGEST_SECONDS)
    # Until this balancer's own streams have ended, the worker needs not be asked: a drain can be taken back.
    while incarnation.leases and worker.incarnation is incarnation and clock() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
    if worker.incarnation is not incarnation:
        return 0
    left_seconds = max(deadline - clock(), 0.0)
    request = worker_pb2.DrainRequest()
    set_seconds(request.deadline, left_seconds)
    try:
        response = await worker.channel.worker.Drain(request, timeout=left_seconds + ANSWER_SECONDS)
    except grpc.aio.AioRpcError as error:
        logger.warning("worker %s did not drain: %s", worker.name, error.details())
        return worker.lease_count
    return response.remaining_streams


def _move_streams(worker: Worker) -> None:
    """Gives up the streams that a worker still has, so that they go on elsewhere."""
    worker.incarnation.abandon_leases(f"worker {worker.name} is being ended", FailureKind.REFUSED)


async def _put_back(worker: Worker) -> str:
    """Lets a drained worker take requests again; returns why it does not, empty if it does."""
    worker.unhold()
    try:
        await worker.channel.worker.Undrain(worker_pb2.UndrainRequest(), timeout=ANSWER_SECONDS)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED and _reports_ready(worker):
            return ""
        return f"worker {worker.name} does not take its drain back ({error.details()}): restart it where it runs"
    return ""


def _reports_ready(worker: Worker) -> bool:
    return worker.report is not None and worker.report.state == worker_pb2.WORKER_STATE_READY
