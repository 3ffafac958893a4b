"""The line of the ordinary chunk, text and nothing else, put together by hand around the encoded text.

Nearly every chunk is one of these, and building a reply for each only to encode the same keys again
costs several times as much. The lines equal the general encoder's byte for byte, which a property
test holds them to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.edge.body import encode_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from vllama_protos.v1 import generation_pb2


class PlainLines:
    """Makes the plain lines of one reply."""

    __slots__ = ("_after_text", "_before_text", "_before_time", "_now")

    def __init__(self, requested: str, now: Callable[[], datetime], before_text: bytes, after_text: bytes) -> None:
        """Takes what stands between the time and the text, and between the text and the end of the message."""
        self._before_time = b'{"model":' + encode_json(requested) + b',"created_at":'
        self._before_text = b"," + before_text
        self._after_text = after_text + b',"done":false}\n'
        self._now = now

    @classmethod
    def of_chat(cls, requested: str, now: Callable[[], datetime]) -> PlainLines:
        """Makes lines of /api/chat."""
        return cls(requested, now, b'"message":{"role":"assistant","content":', b"}")

    @classmethod
    def of_generate(cls, requested: str, now: Callable[[], datetime]) -> PlainLines:
        """Makes lines of /api/generate."""
        return cls(requested, now, b'"response":', b"")

    def line(self, text: str) -> bytes:
        """Makes one line."""
        return b"".join(
            (self._before_time, encode_json(self._now()), self._before_text, encode_json(text), self._after_text)
        )


def is_plain(delta: generation_pb2.Delta) -> bool:
    """Tells whether a delta is text and nothing else that a line shows."""
    return bool(delta.text) and not (delta.thinking or delta.tool_calls or delta.logprobs)
