"""The balancer's errors: reasons of the protos, as rich gRPC statuses."""

from __future__ import annotations

import asyncio

import pytest

from vllama_balancer.errors import BalancerError, NoWorker, QueueFull, outcome_of
from vllama_balancer.front.membership_service import NotAccepted
from vllama_balancer.front.rpc_errors import rich_status
from vllama_balancer.models.errors import ModelError
from vllama_protos.errors import read_trailers, reason_of, reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason


def leaves(error: type[BalancerError]) -> set[type[BalancerError]]:
    """The error and everything below it."""
    return {error}.union(*map(leaves, error.__subclasses__()))


def test_every_error_has_a_reason_of_the_protos() -> None:
    """Errors of the models and of the front doors included."""
    found = leaves(BalancerError)
    assert {ModelError, NotAccepted} <= found
    unlisted = [error for error in found if reason_of(error.reason) == ErrorReason.ERROR_REASON_UNSPECIFIED]
    assert unlisted == []


@pytest.mark.parametrize("number", ErrorReason.values()[1:], ids=ErrorReason.Name)
def test_a_status_carries_every_reason(number: ErrorReason) -> None:
    """With the field and the time of a retry."""
    status = rich_status(BalancerError("no", reason=reason_text(number), field="model", retry_after_seconds=1.5))
    assert status.code is BalancerError.status and status.details == "no"
    details = read_trailers(status.trailing_metadata)
    assert (details.reason, details.field, details.retry_after_seconds) == (reason_text(number), "model", 1.5)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NoWorker("no"), "NO_WORKER"),
        (QueueFull("full", reason="ENGINE_BUSY"), "ENGINE_BUSY"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
        (ZeroDivisionError(), "internal"),
    ],
)
def test_a_bug_is_not_counted_as_a_client_that_left(error: BaseException, outcome: str) -> None:
    """The outcome of a request in the metrics."""
    assert outcome_of(error) == outcome
