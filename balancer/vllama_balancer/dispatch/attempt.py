"""One try of a request on one worker: the call under the lease, and what its failure means."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc

from vllama_balancer.errors import WorkerLost
from vllama_balancer.workers.attempt_errors import AttemptFailed, FailureKind, classify_failure, unreachable
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from vllama_balancer.workers.lease import Lease

COMMON_CAUSE_SECONDS = 0.25
"""How far apart workers may die of one cause, such as the end of their machine."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R_contra = TypeVar("R_contra", contravariant=True)


class UnaryCall(Protocol[T_co]):
    """A running call with one answer."""

    def cancel(self) -> bool:
        """Ends the call from this side."""
        ...

    def __await__(self) -> Generator[Any, None, T_co]:
        """Waits for the answer."""
        ...


class UnaryMethod(Protocol[R_contra, T_co]):
    """A stub's unary method."""

    def __call__(self, request: R_contra, /, *, timeout: float | None) -> UnaryCall[T_co]:
        """Begins a call."""
        ...


async def stream_generation(
    lease: Lease, request: generation_pb2.GenerateRequest, timeout_seconds: float | None
) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
    """Yields a worker's events, `finished` last. Closing it ends the call, which frees the worker's resources.

    Raises AttemptFailed when the stream breaks, is given up, or ends without `finished`.
    """
    worker = lease.worker
    can_relay = worker.description is not None and worker.description.can_relay
    call = worker.channel.generate(request, timeout_seconds, can_relay=can_relay)
    lease.attach(call)
    try:
        async for response in call:
            if lease.abandoned:
                break
            worker.touch()
            if response.HasField("finished"):
                if response.finished.reason == generation_pb2.FINISH_REASON_ABORTED:
                    raise _left(worker.name)
                yield response
                return
            yield response
    except grpc.aio.AioRpcError as error:
        raise classify_failure(error, worker.name) from error
    except asyncio.CancelledError as error:
        if not _was_given_up(lease):
            raise
        raise _given_up(lease) from error
    finally:
        call.cancel()
    raise _given_up(lease) if lease.abandoned else _broken_off(worker.name)


async def ask(lease: Lease, call: UnaryCall[T]) -> T:
    """Awaits a unary call under a lease. Raises AttemptFailed when it fails or is given up."""
    lease.attach(call)
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        raise classify_failure(error, lease.worker.name) from error
    except asyncio.CancelledError as error:
        if not _was_given_up(lease):
            raise
        raise _given_up(lease) from error
    finally:
        call.cancel()
    lease.worker.touch()
    return response


async def confirm_life(lease: Lease) -> None:
    """Asks the worker for a sign of life, so that a request is not blamed for the death of a worker it never reached.

    When a whole machine goes down, the balancer learns of each worker's death a moment too late;
    a request that moves on would meet several dead workers in a row. One that is suspected of the first death waits
    until the others have followed: it would be blamed for them. Raises AttemptFailed.
    """
    if lease.is_suspect:
        await asyncio.sleep(COMMON_CAUSE_SECONDS)
        if lease.abandoned:  # its connection may be closed by now: there is nobody to ask
            raise _unsent(lease)
    patience_seconds = lease.worker.answer_seconds
    answer = lease.worker.channel.liveness_probe.check(patience_seconds)
    lease.attach(answer)
    try:
        await answer
        lease.worker.touch()
        lease.needs_liveness_check = False
    except grpc.aio.AioRpcError as error:
        raise unreachable(lease.worker.name, error) from error
    except asyncio.CancelledError as error:
        if not _was_given_up(lease):
            raise
        raise _unsent(lease) from error


def _was_given_up(lease: Lease) -> bool:
    """Tells whether a cancellation came from giving the lease up, and not from the caller."""
    task = asyncio.current_task()
    return bool(lease.abandoned) and (task is None or not task.cancelling())


def _given_up(lease: Lease) -> AttemptFailed:
    return AttemptFailed(lease.abandoned_as, WorkerLost(lease.abandoned))


def _unsent(lease: Lease) -> AttemptFailed:
    """The request never left, so the end of this worker is none of its doing and no try of its own."""
    kind = FailureKind.UNREACHABLE if lease.abandoned_as is FailureKind.LOST else lease.abandoned_as
    return AttemptFailed(kind, WorkerLost(lease.abandoned))


def _left(worker: str) -> AttemptFailed:
    """The worker ended the stream to leave: nobody's fault, and somebody else may go on."""
    return AttemptFailed(FailureKind.REFUSED, WorkerLost(f"worker {worker} left before the answer was complete"))


def _broken_off(worker: str) -> AttemptFailed:
    return AttemptFailed(FailureKind.FAULT, WorkerLost(f"worker {worker} ended the stream without finishing it"))
