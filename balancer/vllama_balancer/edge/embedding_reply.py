"""Replies of embeddings: a JSON object around many vectors, each encoded by itself.

A vector takes many times its input's bytes. So vectors are encoded as they come, and a long reply is sent in chunks:
the process holds neither all vectors nor the whole reply.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.streaming import stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from vllama_balancer.errors import BalancerError
    from vllama_protos.v1 import embedding_pb2

    Batches = AsyncGenerator[Sequence[embedding_pb2.Vector], None]

HELD_BYTES = 16 * 1024 * 1024
"""A reply up to here is sent as a whole, so that an error in its last vector still has a status of its own."""
_NUMBERS = 50_000
"""How many numbers are encoded before other clients have a turn."""


async def encode_vectors(
    batches: Batches, encode: Callable[[int, embedding_pb2.Vector], bytes], frame: Callable[[int], tuple[bytes, bytes]]
) -> AsyncGenerator[bytes, None]:
    """Yields a reply in pieces, one for each vector.

    `encode` takes the number of a vector, `frame` the prompt tokens of all: it returns what is before and after the
    vectors, the former whatever the tokens.
    """
    tokens = number = unsent = 0
    yield frame(0)[0]
    async with aclosing(batches):
        async for vectors in batches:
            for vector in vectors:
                yield b"," * (number > 0) + encode(number, vector)
                tokens += vector.prompt_tokens
                number += 1
                unsent += len(vector.values)
                if unsent > _NUMBERS:
                    unsent = 0
                    await asyncio.sleep(0)
    yield frame(tokens)[1]


async def send_vectors(
    request: web.Request, pieces: AsyncGenerator[bytes, None], *, charset: str | None, write_timeout_seconds: float
) -> web.StreamResponse:
    """Sends a reply whole, or in chunks when it is long; an error in the middle of those ends the connection."""
    held = bytearray()
    async with aclosing(pieces):
        async for piece in pieces:
            held += piece
            if len(held) > HELD_BYTES:
                break
        else:
            return web.Response(body=bytes(held), content_type="application/json", charset=charset)

        def end_connection(error: BalancerError) -> bytes:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("an embedding failed after the beginning of the reply") from error

        return await stream(
            request,
            _continued(bytes(held), pieces),
            content_type="application/json",
            render_error=end_connection,
            write_timeout_seconds=write_timeout_seconds,
        )


async def _continued(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for piece in rest:
        yield piece
