"""Events of all generations of one call that are not sent yet; `take` returns them as one message.

While a message is being sent, one delta of each generation waits here. A generation that has another one waits as
well, and meanwhile the engine merges its output, as it does for any slow reader. So a slow caller costs neither
memory here nor time for each token.
"""

from __future__ import annotations

import asyncio

from vllama_protos.v1 import generation_pb2
from vllama_protos.v1 import worker_pb2 as pb

LARGE_BYTES = 1 << 20
"""A message of this size takes no further generation in; far below gRPC's limit."""


class SendBuffer:
    """The pending events of one call; one reader takes them."""

    def __init__(self) -> None:
        self._pending: dict[int, list[generation_pb2.GenerateResponse | bytes]] = {}
        self._with_delta: set[int] = set()
        self._has_events = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_closed = False

    def put(self, stream: int, event: generation_pb2.GenerateResponse | bytes) -> None:
        """Adds an event that is no delta, or the status that ends the generation, after what is there."""
        self._pending.setdefault(stream, []).append(event)
        self._has_events.set()

    async def put_delta(self, stream: int, event: generation_pb2.GenerateResponse) -> None:
        """Adds a delta once the one before it has been taken."""
        while stream in self._with_delta:
            await self._has_room.wait()
        self._with_delta.add(stream)
        self._pending.setdefault(stream, []).append(event)
        self._has_events.set()

    def discard(self, stream: int) -> None:
        """Removes what has not been taken of a generation."""
        self._pending.pop(stream, None)
        self._with_delta.discard(stream)

    def close(self) -> None:
        """Lets `take` return None once everything has been taken."""
        self._is_closed = True
        self._has_events.set()

    async def take(self) -> pb.RelayResponse | None:
        """Waits for events and takes them all, or as many as make a large message; returns None at the end."""
        while not self._pending:
            if self._is_closed:
                return None
            self._has_events.clear()
            await self._has_events.wait()
        message, size = pb.RelayResponse(), 0
        while self._pending and size < LARGE_BYTES:
            stream = next(iter(self._pending))
            size += _add(message, stream, self._pending.pop(stream))
            self._with_delta.discard(stream)
        # Tasks that wait now wake up; later ones find room or wait for the next message.
        self._has_room.set()
        self._has_room.clear()
        return message


def _add(message: pb.RelayResponse, stream: int, events: list[generation_pb2.GenerateResponse | bytes]) -> int:
    """Adds the events of one generation and returns about how many bytes they have."""
    size = 0
    for event in events:
        if isinstance(event, bytes):
            message.events.add(stream=stream, status=event)
            size += len(event)
        else:
            message.events.add(stream=stream, response=event)
            size += event.ByteSize()
    return size
