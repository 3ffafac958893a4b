"""One attempt of a request on one worker: the call under the lease, and its failure as AttemptFailed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc

from vllama_balancer.errors import WorkerLost
from vllama_balancer.workers.attempt_errors import AttemptFailed, FailureKind, classify_failure, unreachable
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.relay import StreamEvent

COMMON_CAUSE_SECONDS = 0.25
"""Within this time, workers may crash of one cause, such as the end of their machine."""

T = TypeVar("T")
UnaryCall: TypeAlias = "grpc.aio.UnaryUnaryCall[Any, T]"


async def stream_generation(
    lease: Lease, request: generation_pb2.GenerateRequest, timeout_seconds: float | None
) -> AsyncGenerator[StreamEvent, None]:
    """Yields a worker's events, `finished` last. Closing it ends the call, which frees the worker's resources.

    Raises AttemptFailed when the stream breaks, is given up, or ends without `finished`.
    """
    worker = lease.worker
    can_relay = worker.description is not None and worker.description.can_relay
    call = worker.channel.generate(request, timeout_seconds, can_relay=can_relay)
    lease.attach(call.cancel)
    try:
        async for event in call:
            if lease.abandoned:
                break
            worker.touch()
            kind, response = event
            if kind == "finished":
                if response.finished.reason == generation_pb2.FINISH_REASON_ABORTED:
                    raise _left(worker.name)
                yield event
                return
            yield event
    except grpc.aio.AioRpcError as error:
        raise classify_failure(error, worker.name) from error
    except asyncio.CancelledError as error:
        if not _was_abandoned(lease):
            raise
        raise _abandoned(lease) from error
    finally:
        call.cancel()
    raise _abandoned(lease) if lease.abandoned else _broken_off(worker.name)


async def call_unary(lease: Lease, call: UnaryCall[T]) -> T:
    """Awaits a unary call under a lease. Raises AttemptFailed when it fails or is given up."""
    lease.attach(call.cancel)
    try:
        response: T = await call
    except grpc.aio.AioRpcError as error:
        raise classify_failure(error, lease.worker.name) from error
    except asyncio.CancelledError as error:
        if not _was_abandoned(lease):
            raise
        raise _abandoned(lease) from error
    finally:
        call.cancel()
    lease.worker.touch()
    return response


async def check_liveness(lease: Lease) -> None:
    """Checks that the worker answers, so that no request is blamed for the crash of a worker it never reached.

    When a whole machine goes down, the balancer notices each worker's crash a moment too late; a retried request would
    meet several dead workers in a row. A suspect of the first crash waits until the others have followed, because it
    would be blamed for them. Raises AttemptFailed.
    """
    if lease.is_suspect:
        await asyncio.sleep(COMMON_CAUSE_SECONDS)
        if lease.abandoned:  # its connection may be closed by now
            raise _unsent(lease)
    answer = lease.worker.channel.liveness_probe.check(lease.worker.answer_seconds)
    lease.attach(answer.cancel)
    try:
        await answer
        lease.worker.touch()
        lease.needs_liveness_check = False
    except grpc.aio.AioRpcError as error:
        raise unreachable(lease.worker.name, error) from error
    except asyncio.CancelledError as error:
        if not _was_abandoned(lease):
            raise
        raise _unsent(lease) from error


def _was_abandoned(lease: Lease) -> bool:
    """Returns whether a cancellation came from giving the lease up, and not from the caller."""
    task = asyncio.current_task()
    return bool(lease.abandoned) and (task is None or not task.cancelling())


def _abandoned(lease: Lease) -> AttemptFailed:
    return AttemptFailed(lease.abandoned_as, WorkerLost(lease.abandoned))


def _unsent(lease: Lease) -> AttemptFailed:
    """The request was never sent, so it is not the cause of the worker's end, and the attempt does not count."""
    kind = FailureKind.UNREACHABLE if lease.abandoned_as is FailureKind.LOST else lease.abandoned_as
    return AttemptFailed(kind, WorkerLost(lease.abandoned))


def _left(worker: str) -> AttemptFailed:
    """The worker ended the stream in order to leave: it is not at fault, and another worker may continue."""
    return AttemptFailed(FailureKind.LEFT, WorkerLost(f"worker {worker} left before the answer was complete"))


def _broken_off(worker: str) -> AttemptFailed:
    return AttemptFailed(FailureKind.FAULT, WorkerLost(f"worker {worker} ended the stream without finishing it"))
