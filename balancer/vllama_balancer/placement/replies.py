"""Tells what a finished generation leaves in its worker's prefix cache: the prompt and the reply.

The next turn of a conversation contains the reply, and engines cache what they have generated like
any prompt. So the reply is cut into blocks exactly as it will be when the client sends it back; a
client or template that changes it loses the belief from there on, and the cache as well. Reasoning
ends it too: templates leave the reasoning of earlier turns out, and what follows is computed again.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from vllama_balancer.placement.measure import message_parts
from vllama_balancer.placement.prefix_belief import Prefix, block_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.placement.measure import Size
    from vllama_protos.v1 import generation_pb2


def with_reply(
    request: generation_pb2.GenerateRequest, size: Size, reply: generation_pb2.Message, token_ids: Sequence[int]
) -> Prefix:
    """Continues a request's blocks by what was generated; `reply` and `token_ids` are the same thing twice."""
    keys = size.prefix.keys
    added = block_keys(size.tail + _as_sent_back(request, reply, token_ids), after=keys[-1] if keys else 0)
    return size.prefix._replace(keys=[*keys, *added])


def _as_sent_back(
    request: generation_pb2.GenerateRequest, reply: generation_pb2.Message, token_ids: Sequence[int]
) -> bytes:
    kind = request.WhichOneof("input")
    if kind == "token_ids":
        return array("I", token_ids).tobytes()
    if reply.thinking:
        return b""
    if kind == "chat":
        return "".join(message_parts(reply)).encode()
    # What comes back after a suffix or before further context is in another place.
    return b"" if request.suffix or request.context_token_ids else reply.content.encode()
