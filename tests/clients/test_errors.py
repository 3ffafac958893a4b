"""Statuses and their details become typed errors."""

from __future__ import annotations

import grpc
import pytest

from tests.clients.scripted_server import Refusal
from vllama_clients import Busy, InvalidRequest, ServerFault, VllamaError
from vllama_clients.errors import CLASS_OF_STATUS, error_of_call, error_of_status


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_has_a_class(code: grpc.StatusCode) -> None:
    """Each status becomes its class, keeps its code, and is a VllamaError."""
    error = error_of_status(code, "No.", ())
    assert type(error) is CLASS_OF_STATUS.get(code, ServerFault)
    assert isinstance(error, VllamaError)
    assert error.code is code


def test_details_are_read() -> None:
    """Reason, field and delay come from google.rpc details."""
    refusal = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "No.", "QUEUE_FULL", "queue", 0.25)
    error = error_of_status(refusal.code, refusal.message, refusal.trailers())
    assert isinstance(error, Busy)
    assert (error.reason, error.field, error.retry_after_seconds) == ("QUEUE_FULL", "queue", 0.25)


def test_without_details_the_extras_are_empty() -> None:
    """A plain status has no reason, field or delay."""
    error = error_of_status(grpc.StatusCode.INVALID_ARGUMENT, "No.", None)
    assert isinstance(error, InvalidRequest)
    assert (error.reason, error.field, error.retry_after_seconds) == ("", "", None)


def test_broken_details_do_not_hide_the_error() -> None:
    """Garbage in the trailers leaves the status itself."""
    error = error_of_status(grpc.StatusCode.UNAVAILABLE, "No.", (("grpc-status-details-bin", b"\xff\xff"),))
    assert str(error) == "No."


def test_a_status_without_a_message_still_says_something() -> None:
    """An empty message is replaced by the status's name."""
    assert "INTERNAL" in str(error_of_status(grpc.StatusCode.INTERNAL, "", ()))


def test_a_bare_rpc_error_is_a_server_fault() -> None:
    """An error without a status is not lost."""
    assert isinstance(error_of_call(grpc.RpcError("odd")), ServerFault)
