"""The errors about models on disk, below BalancerError; each message is one sentence with the cause and the fix.

ModelError
|-- ModelUnknown           no source for that name
|-- SourceUnavailable      the hub, the package or the file is not available now
|-- AccessRefused          the hub requires a token or an accepted licence
|-- DownloadDamaged        the download is not what the hub announced
|-- DoesNotFit             memory or disk does not suffice; the message has the numbers
|-- ConversionFailed       a GGUF file cannot be converted for vLLM
|-- PullsFull              too many pulls wait; carries the time of a retry
`-- ModelInUse             the configuration names the model: it cannot be deleted or replaced
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import grpc

from vllama_balancer.errors import BalancerError
from vllama_protos.errors import reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    from pathlib import Path


class ModelError(BalancerError):
    """Root of the errors about models on disk."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = reason_text(ErrorReason.ERROR_REASON_MODEL_ERROR)


class ModelUnknown(ModelError):
    """No store entry, table entry, directory, file or hub repository of that name."""

    status = grpc.StatusCode.NOT_FOUND
    reason = reason_text(ErrorReason.ERROR_REASON_MODEL_NOT_FOUND)


class SourceUnavailable(ModelError):
    """The hub, the package or the file with the weights is not available now."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = reason_text(ErrorReason.ERROR_REASON_MODEL_SOURCE_UNAVAILABLE)


class AccessRefused(ModelError):
    """The hub refuses: no token, a wrong one, or a licence that has not been accepted."""

    status = grpc.StatusCode.PERMISSION_DENIED
    reason = reason_text(ErrorReason.ERROR_REASON_MODEL_ACCESS_REFUSED)


class DownloadDamaged(ModelError):
    """A downloaded file differs from what the hub announced."""

    status = grpc.StatusCode.DATA_LOSS
    reason = reason_text(ErrorReason.ERROR_REASON_MODEL_DOWNLOAD_DAMAGED)


class DoesNotFit(ModelError):
    """Memory or disk does not suffice."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = reason_text(ErrorReason.ERROR_REASON_MODEL_DOES_NOT_FIT)


class ConversionFailed(ModelError):
    """A GGUF file cannot be converted."""

    reason = reason_text(ErrorReason.ERROR_REASON_MODEL_CONVERSION_FAILED)


class PullsFull(ModelError):
    """Too many pulls wait already."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = reason_text(ErrorReason.ERROR_REASON_QUEUE_FULL)


class ModelInUse(ModelError):
    """The configuration names the model: it cannot be deleted or replaced while the server runs."""

    reason = reason_text(ErrorReason.ERROR_REASON_MODEL_IN_USE)


BY_REASON = {
    kind.reason: kind
    for kind in (
        ModelError,
        ModelUnknown,
        SourceUnavailable,
        AccessRefused,
        DownloadDamaged,
        DoesNotFit,
        ConversionFailed,
    )
}
"""The class of an error that was reported by a job's process."""


def write_error(error: OSError, directory: Path) -> ModelError:
    """Returns the error for a file of the model store that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DoesNotFit(f"no space left on the disk of {directory}: delete models, or choose another --models")
    return ModelError(f"the model store {directory} cannot be written: {error.strerror or error}")
