"""The details of an error status, written and read: its stable reason, what it is about, when to come back.

gRPC carries a google.rpc.Status in a trailer beside the status code. Ours has an ErrorInfo (domain "vllama"), whose
reason is a value of ErrorReason as text, and a RetryInfo where the time to come back is known. Workers and the
balancer write it, the balancer and clients read it. A reason that is not in ErrorReason passes as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from vllama_protos.enums import value_name
from vllama_protos.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    from collections.abc import Iterable

DOMAIN = "vllama"
"""Domain of every ErrorInfo."""
DETAILS_TRAILER = "grpc-status-details-bin"
"""The trailer in which gRPC carries a google.rpc.Status."""
LONGEST_MESSAGE = 1_000
"""Characters of an error's message."""
LONGEST_MESSAGE_BYTES = 1_500
"""Bytes of it in UTF-8; all but ASCII takes three times as many in the status."""
_PREFIX = "ERROR_REASON_"


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """The details of an error status beside its code and message."""

    reason: str = ""
    """Name of an ErrorReason without its prefix; empty when the status has none."""
    field: str = ""
    """The wrong field of the request; empty when no single one is wrong."""
    capability: str = ""
    """The missing capability; empty when none is."""
    retry_after_seconds: float | None = None
    """When it makes sense to come back; None when that is not known."""


def reason_text(reason: ErrorReason) -> str:
    """Returns the text of a reason on the wire, "QUEUE_FULL" for ERROR_REASON_QUEUE_FULL."""
    return value_name(ErrorReason, reason)


def reason_of(text: str) -> ErrorReason:
    """Returns the reason of a text; ERROR_REASON_UNSPECIFIED for one that is not in the list."""
    name = _PREFIX + text
    known = name in ErrorReason.keys()  # noqa: SIM118  # not a mapping
    return getattr(ErrorReason, name) if known else ErrorReason.ERROR_REASON_UNSPECIFIED


def shortened(sentence: str) -> str:
    """Returns a sentence for people that fits gRPC's metadata, in which it travels twice.

    A client's text may be quoted in it. With more than some 8 KiB the whole status would be lost.
    """
    cut = sentence[:LONGEST_MESSAGE].encode(errors="replace")[:LONGEST_MESSAGE_BYTES].decode(errors="ignore")
    return cut if len(cut) == len(sentence) else f"{cut[:-1]}\u2026"


def encode_status(code: int, message: str, details: ErrorDetails) -> bytes:
    """Returns a serialized google.rpc.Status; `code` is the number of a gRPC status."""
    info = error_details_pb2.ErrorInfo(reason=details.reason, domain=DOMAIN)
    if details.field:
        info.metadata["field"] = details.field
    if details.capability:
        info.metadata["capability"] = details.capability
    status = status_pb2.Status(code=code, message=shortened(message))
    status.details.add().Pack(info)
    if details.retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(details.retry_after_seconds * 1e9))
        status.details.add().Pack(retry)
    encoded: bytes = status.SerializeToString()
    return encoded


def read_trailers(trailers: Iterable[tuple[str, str | bytes]], code: int | None = None) -> ErrorDetails:
    """Returns the details among a call's trailing metadata; empty ones when there are none or they are damaged.

    With `code`, the number of the call's own status, the details of a status with another code are ignored.
    """
    for key, value in trailers:
        if key == DETAILS_TRAILER and isinstance(value, bytes):
            # A proxy's details may be anything; they must not hide the status itself.
            try:
                status = status_pb2.Status.FromString(value)
                return _read(status) if code in (None, status.code) else ErrorDetails()
            except DecodeError:
                break
    return ErrorDetails()


def _read(status: status_pb2.Status) -> ErrorDetails:
    info, retry, retry_after = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return ErrorDetails(info.reason, info.metadata.get("field", ""), info.metadata.get("capability", ""), retry_after)
