"""Vectors of the simulated engine: a function of the text alone."""

from __future__ import annotations

import asyncio
import math
import struct
from hashlib import sha256

from vllama_protos.v1 import embedding_pb2 as pb
from vllama_server.errors import ContextTooLong, InvalidRequest
from vllama_server.fake_engine import tokens

VECTOR_LENGTH = 384
REPLY_BYTES = 64 * 1024 * 1024
"""The largest message that a worker sends; one reply carries all vectors of a call."""
VECTOR_OVERHEAD_BYTES = 16
"""At most, besides the numbers of a vector: lengths, tags and its count of tokens."""
VECTORS_PER_TURN = 16
"""Vectors between two turns of the event loop: about a millisecond."""


async def embed_all(request: pb.EmbedRequest, context_tokens: int) -> pb.EmbedResponse:
    """Embeds every text, in order, and lets other calls run in between.

    Raises InvalidRequest for more numbers than a vector has or more vectors than a reply carries, and ContextTooLong.
    """
    length = request.dimensions or VECTOR_LENGTH
    if length > VECTOR_LENGTH:
        raise InvalidRequest(f"dimensions is {length} and may be {VECTOR_LENGTH} at most.", "dimensions")
    most = REPLY_BYTES // (4 * length + VECTOR_OVERHEAD_BYTES)
    if len(request.inputs) > most:
        raise InvalidRequest(f"inputs has {len(request.inputs)} texts and may have {most}; send more calls.", "inputs")
    normalize = request.normalize if request.HasField("normalize") else True
    response = pb.EmbedResponse()
    for index, text in enumerate(request.inputs):
        if index % VECTORS_PER_TURN == 0:
            await asyncio.sleep(0)
        response.vectors.append(embed(text, context_tokens, length, truncate=request.truncate, normalize=normalize))
    return response


def embed(text: str, context_tokens: int, dimensions: int, *, truncate: bool, normalize: bool) -> pb.Vector:
    """Embeds a text, cut to the context if `truncate`. Raises ContextTooLong otherwise."""
    data = tokens.encode(text)
    length = len(data) // tokens.TOKEN_BYTES
    if length > context_tokens:
        if not truncate:
            raise ContextTooLong(
                f"an input has {length} tokens and the context {context_tokens}; shorten it or set truncate.", "inputs"
            )
        length = context_tokens
        text = tokens.decode(tokens.to_ids(data[: length * tokens.TOKEN_BYTES]))
    return pb.Vector(values=vector(text, dimensions, normalize=normalize), prompt_tokens=length)


def vector(text: str, dimensions: int, *, normalize: bool) -> list[float]:
    """Derives numbers from -1 to 1 from the text's SHA-256, and scales them to length 1 if asked."""
    data = text.encode("utf-8", "replace")
    numbers: list[float] = []
    for block in range(-(-dimensions // 8)):
        digest = sha256(block.to_bytes(4, "big") + data).digest()
        numbers.extend(number / 0x7FFFFFFF - 1.0 for number in struct.unpack(">8I", digest))
    numbers = numbers[:dimensions]
    if not normalize:
        return numbers
    length = math.sqrt(math.fsum(number * number for number in numbers))
    return [number / length for number in numbers]
