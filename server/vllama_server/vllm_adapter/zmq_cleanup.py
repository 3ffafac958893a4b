"""Cleanup of ZeroMQ contexts of an engine that has ended: vLLM closes their sockets and leaves them open.

An open context keeps its two threads, and prints an error when it is collected, long after and elsewhere.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from vllm.v1.engine.core_client import MPClient

if TYPE_CHECKING:
    from types import TracebackType


def close_context(llm: Any) -> None:
    """Closes the context of an engine that was shut down. Blocks for as long as its sockets take to close."""
    llm.engine_core.resources.ctx.destroy(linger=0)


def close_abandoned(trace: TracebackType | None) -> None:
    """Closes the contexts of the engines whose construction failed with this traceback, and clears its frames.

    The half-made objects are in the frames of the failed calls only.
    """
    for frame, _ in traceback.walk_tb(trace):
        client = frame.f_locals.get("self")
        if isinstance(client, MPClient):
            client.resources.ctx.destroy(linger=0)
    traceback.clear_frames(trace)
