"""The details of an error status: what is written is what is read, for every reason."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from vllama_protos.errors import (
    DETAILS_TRAILER,
    ErrorDetails,
    encode_status,
    read_trailers,
    reason_of,
    reason_text,
    shortened,
)
from vllama_protos.v1.errors_pb2 import ErrorReason

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]


def sent(details: ErrorDetails) -> list[tuple[str, str | bytes]]:
    """Returns the trailing metadata of a call that ended with these details."""
    return [("date", "today"), (DETAILS_TRAILER, encode_status(UNAVAILABLE, "No.", details))]


@pytest.mark.parametrize("number", ErrorReason.values(), ids=ErrorReason.Name)
def test_every_reason_survives_the_wire(number: int) -> None:
    """The text is the name without its prefix, and leads back to the value."""
    text = reason_text(number)
    assert ErrorReason.Name(number) == f"ERROR_REASON_{text}"
    assert reason_of(read_trailers(sent(ErrorDetails(text))).reason) == number


@pytest.mark.parametrize("text", ["", "HTTP_413", "SOMETHING_NEW", "queue_full"])
def test_an_unknown_reason_passes_as_text(text: str) -> None:
    """A newer server may give one that this list does not have."""
    assert read_trailers(sent(ErrorDetails(text))).reason == text
    assert reason_of(text) == ErrorReason.ERROR_REASON_UNSPECIFIED


def test_all_details_arrive() -> None:
    """Field, capability and time are kept, and the status has code, message and domain."""
    details = ErrorDetails("CAPABILITY_MISSING", "prompt", "vision", 1.5)
    assert read_trailers(sent(details)) == details
    status, info = status_pb2.Status.FromString(sent(details)[1][1]), error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message, info.domain) == (UNAVAILABLE, "No.", "vllama")


@pytest.mark.parametrize(
    "trailers",
    [[], [("date", "today")], [(DETAILS_TRAILER, b"\xff\xff")], [(DETAILS_TRAILER, "text")]],
    ids=["none", "others", "damaged", "text"],
)
def test_without_details_all_are_empty(trailers: list[tuple[str, str | bytes]]) -> None:
    """A status of gRPC itself has none, and those of a proxy may be anything."""
    assert read_trailers(trailers) == ErrorDetails()


def test_foreign_details_are_ignored() -> None:
    """A proxy may add messages of its own."""
    status = status_pb2.Status.FromString(encode_status(UNAVAILABLE, "No.", ErrorDetails("QUEUE_FULL")))
    status.details.insert(0, any_pb2.Any(type_url="type.googleapis.com/elsewhere.Thing", value=b"\x08\x01"))
    assert read_trailers([(DETAILS_TRAILER, status.SerializeToString())]) == ErrorDetails("QUEUE_FULL")


@pytest.mark.parametrize("quoted", ["y", "\u00e9", "\u6f22", "\U0001f642", "\ud800"])
def test_a_sentence_that_quotes_a_client_fits_the_metadata(quoted: str) -> None:
    """With its copy in the details it stays below 8 KiB, whatever its characters; a short one is not changed."""
    sentence = shortened(f"The worker has no model {quoted * 20_000}.")
    assert sentence.startswith("The worker has no model ")
    assert sentence.endswith("\u2026")
    assert len(sentence) <= 1_000
    encoded = encode_status(UNAVAILABLE, sentence, ErrorDetails("MODEL_NOT_FOUND"))
    percent_encoded = sum(1 if byte < 128 else 3 for byte in sentence.encode())
    assert percent_encoded + len(encoded) * 4 / 3 < 8_000
    assert shortened("no such model: caf\u00e9") == "no such model: caf\u00e9"
