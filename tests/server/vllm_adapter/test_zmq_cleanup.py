"""Contexts that a failed start leaves open are closed; only the traceback refers to them."""

from __future__ import annotations

from types import SimpleNamespace

import zmq
from vllm.v1.engine.core_client import MPClient

from vllama_server.vllm_adapter.zmq_cleanup import close_abandoned, close_context


class HalfMade(MPClient):  # type: ignore[misc]  # vLLM is not analysed
    """A client whose construction fails as vLLM's does: with its context open."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.resources = SimpleNamespace(ctx=context)
        raise RuntimeError("Engine core initialization failed.")


def construct(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Fails as a start does, some frames below."""
    HalfMade(context)


def test_the_context_of_a_failed_construction_is_closed() -> None:
    """And only that one: another engine of the process keeps its own."""
    context, other = zmq.Context[zmq.Socket[bytes]](), zmq.Context[zmq.Socket[bytes]]()
    try:
        construct(context)
    except RuntimeError as error:
        close_abandoned(error.__traceback__)
    assert context.closed
    assert not other.closed
    other.term()


def test_an_engine_that_has_ended_closes_its_context_with_what_is_left_in_it() -> None:
    """A socket that was forgotten does not hold it up."""
    context = zmq.Context[zmq.Socket[bytes]]()
    context.socket(zmq.PULL)
    close_context(SimpleNamespace(engine_core=SimpleNamespace(resources=SimpleNamespace(ctx=context))))
    assert context.closed
