"""Fields that OpenAI's endpoints share: sampling, reasoning effort and output format.

Temperature and top_p default to OpenAI's 1, not to the model's own values, as its clients expect; what OpenAI has no
name for stays the model's. Fields that clients of vLLM send in the same place are read as well.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from vllama_balancer.edge.wire.bounds import INT64_MAX, clamp_count, clamp_int32, clamp_unit
from vllama_balancer.edge.wire.json_text import json_text
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

Seed = Annotated[int, msgspec.Meta(ge=-INT64_MAX, le=INT64_MAX)]

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

_TYPES = '"text", "json_object" or "json_schema"'


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling fields of a request; null counts as absent."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None


def to_sampling(fields: SamplingFields, max_tokens: int | None) -> generation_pb2.Sampling:
    """Translates the fields; numbers are clamped to the range of the protos."""
    return generation_pb2.Sampling(
        temperature=max(0.0, _or_default(fields.temperature, 1.0)),
        top_p=min(1.0, _or_default(fields.top_p, 1.0)),
        top_k=clamp_int32(fields.top_k),
        min_p=clamp_unit(fields.min_p),
        frequency_penalty=fields.frequency_penalty,
        presence_penalty=fields.presence_penalty,
        repetition_penalty=fields.repetition_penalty,
        seed=fields.seed,
        stop=_stop_texts(fields.stop),
        max_tokens=clamp_int32(max_tokens),
        min_tokens=clamp_count(fields.min_tokens),
        ignore_eos=fields.ignore_eos,
    )


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else value


def _stop_texts(stop: str | list[str] | None) -> list[str]:
    texts = [stop] if isinstance(stop, str) else stop or []
    # An empty text would stop every generation before its first character.
    return [text for text in texts if text]


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


def to_output_format(kind: str | None, schema: dict[str, Any] | None, field: str) -> generation_pb2.OutputFormat | None:
    """Translates a format; None for free text. A json_schema without a schema asks for any JSON object.

    Raises InvalidRequest for another type.
    """
    match (kind or "text").strip().lower():
        case "text":
            return None
        case "json_schema" if schema is not None:
            return generation_pb2.OutputFormat(json_schema=json_text(schema, field))
        case "json_object" | "json_schema":
            return generation_pb2.OutputFormat(json_object=True)
    raise InvalidRequest(f"invalid {field}.type: '{kind}' (must be {_TYPES})", field=f"{field}.type")
