"""The worker's exceptions, and the one table from them to gRPC statuses.

WorkerError
|-- InvalidRequest       a field is wrong; the message names it and the fix
|   `-- ContextTooLong   the input does not fit the context
|-- ModelNotFound        the request names a model that this worker does not host
|-- CapabilityMissing    the model cannot do what is asked
|-- EngineBusy           the worker's own queue is full
|-- Draining             the worker takes no new requests
|-- NotReady             the engine is still starting
|-- Asleep               the model's weights are in the host's memory
|-- EngineDead           the engine has died; the process is about to end
|-- NotAllowed           the caller's certificate has another role
|-- EngineFault          the engine failed on this one request
|-- CannotContinue       a generation that began on another worker cannot be continued
|-- StartFailed          the engine could not start; the message says why and what to do
`-- ConfigError          flags or environment are wrong; refused at start
"""

from __future__ import annotations

import grpc

from vllama_protos.enums import value_name
from vllama_protos.errors import ErrorDetails, encode_status, reason_text, shortened
from vllama_protos.v1 import errors_pb2, worker_pb2


class WorkerError(Exception):
    """Root of everything that the worker raises on purpose; `str()` is a sentence for people."""

    reason = errors_pb2.ERROR_REASON_WORKER_ERROR
    """Stable, machine-readable: travels in google.rpc.ErrorInfo."""
    retry_after_seconds: float | None = None
    """When it makes sense to come back; None when that is not known."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


class InvalidRequest(WorkerError):
    """A field of the request is wrong; the message names it and says what would be right."""

    reason = errors_pb2.ERROR_REASON_INVALID_REQUEST

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field
        """The wrong field, as in the proto; empty when no single one is wrong."""


class ContextTooLong(InvalidRequest):
    """The input does not fit the context; the message states both lengths."""

    reason = errors_pb2.ERROR_REASON_CONTEXT_TOO_LONG


class ModelNotFound(WorkerError):
    """The request names a model that this worker does not host."""

    reason = errors_pb2.ERROR_REASON_MODEL_NOT_FOUND


class CapabilityMissing(WorkerError):
    """The model lacks a capability."""

    reason = errors_pb2.ERROR_REASON_CAPABILITY_MISSING

    def __init__(self, message: str, capability: worker_pb2.Capability = worker_pb2.CAPABILITY_UNSPECIFIED) -> None:
        super().__init__(message)
        self.capability = capability
        """The missing one; unspecified when the engine lacks something that is no capability of a model."""


class EngineBusy(WorkerError):
    """The worker's own queue is full; another worker may have room."""

    reason = errors_pb2.ERROR_REASON_ENGINE_BUSY
    retry_after_seconds = 1.0


class Draining(WorkerError):
    """The worker finishes what runs and takes no new requests."""

    reason = errors_pb2.ERROR_REASON_WORKER_DRAINING


class NotReady(WorkerError):
    """The engine is still starting."""

    reason = errors_pb2.ERROR_REASON_WORKER_STARTING
    retry_after_seconds = 1.0


class Asleep(WorkerError):
    """The worker sleeps and takes no requests until it is woken."""

    reason = errors_pb2.ERROR_REASON_WORKER_ASLEEP


class EngineDead(WorkerError):
    """The engine has died and the process is about to end."""

    reason = errors_pb2.ERROR_REASON_ENGINE_DEAD


class NotAllowed(WorkerError):
    """The caller's certificate has a role that may not give this order."""

    reason = errors_pb2.ERROR_REASON_PERMISSION_DENIED


class EngineFault(WorkerError):
    """The engine failed on this one request."""

    reason = errors_pb2.ERROR_REASON_ENGINE_FAULT


class CannotContinue(WorkerError):
    """A generation that began on another worker cannot be continued: computing it again gave other tokens."""

    reason = errors_pb2.ERROR_REASON_CANNOT_CONTINUE


class StartFailed(WorkerError):
    """The engine could not start; the message says why and what to do."""

    reason = errors_pb2.ERROR_REASON_START_FAILED


class ConfigError(WorkerError):
    """Flags or environment are wrong; the process does not start."""

    reason = errors_pb2.ERROR_REASON_CONFIG


STATUS = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    CapabilityMissing: grpc.StatusCode.FAILED_PRECONDITION,
    EngineBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Draining: grpc.StatusCode.UNAVAILABLE,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    Asleep: grpc.StatusCode.UNAVAILABLE,
    EngineDead: grpc.StatusCode.UNAVAILABLE,
    NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    EngineFault: grpc.StatusCode.INTERNAL,
    CannotContinue: grpc.StatusCode.INTERNAL,
    StartFailed: grpc.StatusCode.UNAVAILABLE,
}
"""The status of each error; a subclass takes its nearest ancestor's."""


def status_of(error: WorkerError) -> grpc.StatusCode:
    """Returns the status of an error's class or of its nearest ancestor."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return grpc.StatusCode.INTERNAL


def encoded_status(error: WorkerError) -> bytes:
    """Returns the serialized google.rpc.Status of an error, with its details."""
    capability = error.capability if isinstance(error, CapabilityMissing) else worker_pb2.CAPABILITY_UNSPECIFIED
    details = ErrorDetails(
        reason=reason_text(error.reason),
        field=error.field if isinstance(error, InvalidRequest) else "",
        capability=value_name(worker_pb2.Capability, capability).lower() if capability else "",
        retry_after_seconds=error.retry_after_seconds,
    )
    code: int = status_of(error).value[0]
    return encode_status(code, str(error), details)
