"""The worker's errors as gRPC statuses."""

import pytest

from vllama_protos.errors import DETAILS_TRAILER, ErrorDetails, read_trailers, reason_of
from vllama_protos.v1.errors_pb2 import ErrorReason
from vllama_protos.v1.worker_pb2 import CAPABILITY_VISION
from vllama_server import errors
from vllama_server.errors import CapabilityMissing, EngineBusy, InvalidRequest, WorkerError, encoded_status

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WorkerError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_a_reason_of_the_protos(kind):
    """Its reason on the wire is the one of its class."""
    details = read_trailers([(DETAILS_TRAILER, encoded_status(kind("no")))])
    assert reason_of(details.reason) == kind.reason != ErrorReason.ERROR_REASON_UNSPECIFIED


@pytest.mark.parametrize(
    ("error", "details"),
    [
        (InvalidRequest("no", "prompt"), ErrorDetails("INVALID_REQUEST", field="prompt")),
        (
            CapabilityMissing("blind", CAPABILITY_VISION),
            ErrorDetails("CAPABILITY_MISSING", capability="vision"),
        ),
        (EngineBusy("full"), ErrorDetails("ENGINE_BUSY", retry_after_seconds=1.0)),
    ],
)
def test_the_details_of_an_error_travel_with_its_status(error, details):
    """Field, capability and the time to come back."""
    assert read_trailers([(DETAILS_TRAILER, encoded_status(error))]) == details
