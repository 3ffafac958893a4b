"""Classification of failed calls to workers."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from vllama_balancer.errors import (
    CapabilityMissing,
    EngineFault,
    InvalidRequest,
    ModelNotFound,
    NoWorker,
    QueueFull,
    WorkerLost,
)
from vllama_balancer.front.rpc_errors import rich_status
from vllama_balancer.workers.attempt_errors import FailureKind, classify_failure

Code = grpc.StatusCode


def rpc_error(code, details="something", trailers=()):
    """A failed call as gRPC raises it."""
    return AioRpcError(code, Metadata(), Metadata(*trailers), details=details)


def rich(error):
    """A failed call with details, as workers send it."""
    status = rich_status(error)
    return rpc_error(status.code, status.details, status.trailing_metadata)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (rich(InvalidRequest("no")), FailureKind.REJECTED),
        (rich(ModelNotFound("no")), FailureKind.REJECTED),
        (rich(CapabilityMissing("no")), FailureKind.REJECTED),
        (rpc_error(Code.UNIMPLEMENTED), FailureKind.REJECTED),
        (rpc_error(Code.DEADLINE_EXCEEDED), FailureKind.DEADLINE),
        (rich(NoWorker("it drains", reason="WORKER_DRAINING")), FailureKind.REFUSED),
        (rich(NoWorker("it starts", reason="WORKER_STARTING")), FailureKind.REFUSED),
        (rich(NoWorker("it sleeps", reason="WORKER_ASLEEP")), FailureKind.REFUSED),
        (rich(QueueFull("full", reason="ENGINE_BUSY")), FailureKind.BUSY),
        (rich(EngineFault("oops")), FailureKind.FAULT),
        (rich(EngineFault("another token", reason="CANNOT_CONTINUE")), FailureKind.REJECTED),
        (rpc_error(Code.UNKNOWN), FailureKind.FAULT),
        (rpc_error(Code.PERMISSION_DENIED), FailureKind.FAULT),
        (rich(WorkerLost("dead", reason="ENGINE_DEAD")), FailureKind.LOST),
        (rpc_error(Code.UNAVAILABLE, "Socket closed"), FailureKind.LOST),
        (rpc_error(Code.CANCELLED), FailureKind.LOST),
        (rpc_error(Code.INTERNAL, "Internal error from Core"), FailureKind.LOST),
        (rpc_error(Code.UNAVAILABLE, "failed to connect to all addresses; …"), FailureKind.UNREACHABLE),
        (rpc_error(Code.RESOURCE_EXHAUSTED, "Received message larger than max"), FailureKind.REJECTED),
    ],
)
def test_a_status_and_its_reason_decide(error, kind):
    """Each has one meaning."""
    assert classify_failure(error, "w0").kind is kind


def test_the_reason_and_the_field_travel_on():
    """From the worker to the client."""
    error = classify_failure(rich(InvalidRequest("top_k is -7", reason="BAD_TOP_K", field="top_k")), "w0").error
    assert isinstance(error, InvalidRequest)
    assert (str(error), error.reason, error.field) == ("top_k is -7", "BAD_TOP_K", "top_k")


def test_the_retry_info_of_a_busy_worker_is_kept():
    """As the time until the next attempt."""
    error = classify_failure(rich(QueueFull("full", reason="ENGINE_BUSY", retry_after_seconds=1.5)), "w0").error
    assert error.retry_after_seconds == 1.5


def test_details_that_contradict_the_status_are_ignored():
    """Another implementation must not break the classification."""
    status = rich_status(InvalidRequest("no"))
    error = rpc_error(Code.UNKNOWN, "other", status.trailing_metadata)
    assert classify_failure(error, "w0").kind is FailureKind.FAULT
