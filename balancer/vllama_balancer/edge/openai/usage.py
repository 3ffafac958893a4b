"""Token counts of one reply, over all its choices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllama_protos.v1 import generation_pb2


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of chat completions and completions."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


NO_USAGE = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)


def to_usage(usages: Iterable[generation_pb2.Usage]) -> Usage:
    """Adds the choices up; they share one prompt, which counts once."""
    counted = list(usages)
    prompt_tokens = max((usage.prompt_tokens for usage in counted), default=0)
    completion_tokens = sum(usage.completion_tokens for usage in counted)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )
