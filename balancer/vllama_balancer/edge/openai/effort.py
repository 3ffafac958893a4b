"""Reasoning efforts: OpenAI's words for how hard a model thinks."""

from __future__ import annotations

from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

_LEVELS = {
    "none": generation_pb2.THINK_LEVEL_OFF,
    "minimal": generation_pb2.THINK_LEVEL_LOW,
    "low": generation_pb2.THINK_LEVEL_LOW,
    "medium": generation_pb2.THINK_LEVEL_MEDIUM,
    "high": generation_pb2.THINK_LEVEL_HIGH,
    "max": generation_pb2.THINK_LEVEL_MAX,
    "xhigh": generation_pb2.THINK_LEVEL_MAX,
    "ultra": generation_pb2.THINK_LEVEL_MAX,
}


def think_level(effort: str | None, field: str) -> generation_pb2.ThinkLevel:
    """Translates an effort; an absent or empty one leaves the level unset.

    Raises InvalidRequest for another word.
    """
    if not effort:
        return generation_pb2.THINK_LEVEL_UNSPECIFIED
    if effort not in _LEVELS:
        message = f'invalid reasoning value: \'{effort}\' (must be "high", "medium", "low", "max", or "none")'
        raise InvalidRequest(message, field=field)
    return _LEVELS[effort]
