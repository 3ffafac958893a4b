"""The clients' exceptions, and the one translation from gRPC statuses to them.

VllamaError
|-- InvalidRequest       a field is wrong; the message names it and the fix
|-- NotFound             no such model, or no such worker
|-- NotSupported         the model or the worker cannot do what is asked
|-- Busy                 too many requests wait; carries the delay to retry after
|-- Unavailable          no server, or no worker that can take the request
|-- DeadlineExceeded     the call's time-out passed
|-- Unauthenticated      no API key, or a wrong one
|-- Cancelled            the call was cancelled, by this side or by the server
|-- NotUsable            the client is closed, or belongs to another event loop
|-- IncompleteStream     the stream ended without `Finished`
`-- ServerFault          everything else: the engine failed, or the server is not one of ours

Programs branch on the class, or on `reason`, which is stable across versions; the message is for
people and may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from vllama_protos.errors import read_trailers

if TYPE_CHECKING:
    from collections.abc import Iterable


class VllamaError(Exception):
    """Root of the clients' exceptions; `str()` is a sentence for people."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        field: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        """The gRPC status that the call ended with."""
        self.reason = reason
        """Stable and machine-readable ("QUEUE_FULL"); empty when the server gave none."""
        self.field = field
        """The wrong field of the request or the missing capability; empty when there is none."""
        self.retry_after_seconds = retry_after_seconds
        """When to retry; None when the server gave no time."""


class InvalidRequest(VllamaError):
    """A field of the request is wrong."""


class NotFound(VllamaError):
    """No model of that name can be served, or no worker has that name."""


class NotSupported(VllamaError):
    """The model lacks the capability named in `field`, or the balancer does not manage the worker."""


class Busy(VllamaError):
    """Too many requests wait already; `retry_after_seconds` is the delay to retry after."""


class Unavailable(VllamaError):
    """No server answers, or no worker can take the request."""


class DeadlineExceeded(VllamaError):
    """The call's time-out passed."""


class Unauthenticated(VllamaError):
    """The API key is missing or wrong."""


class Cancelled(VllamaError):
    """The call was cancelled."""


class NotUsable(VllamaError):
    """The client is closed, or was not made in the event loop that uses it: a mistake of the program."""


class IncompleteStream(VllamaError):
    """The stream ended without `Finished`: what was received is a part of the answer."""


class ServerFault(VllamaError):
    """The engine failed on this request, or the server answered what no vllama server does."""


CLASS_OF_STATUS: dict[grpc.StatusCode, type[VllamaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: NotSupported,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Busy,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.CANCELLED: Cancelled,
}
"""The class of each status; every other status is a ServerFault."""


def error_of_status(
    code: grpc.StatusCode, message: str | None, trailers: Iterable[tuple[str, str | bytes]] | None
) -> VllamaError:
    """Translates the end of a call; reason, field and delay come from its google.rpc details."""
    details = read_trailers(trailers or ())
    return CLASS_OF_STATUS.get(code, ServerFault)(
        message or f"The call ended with {code.name}.",
        code=code,
        reason=details.reason,
        field=details.field,
        retry_after_seconds=details.retry_after_seconds,
    )


def error_of_call(error: grpc.RpcError) -> VllamaError:
    """Translates what grpcio raised, by its synchronous API (where the error is the call) or its asyncio one."""
    if isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return error_of_status(error.code(), error.details(), error.trailing_metadata())
    return ServerFault(str(error))
