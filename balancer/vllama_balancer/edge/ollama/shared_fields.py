"""Fields that generate and chat share: format, think, images, logprobs; to the wire.

Messages are Ollama's own where tools match on them. All of it is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.edge.body import compact_json
from vllama_balancer.edge.ollama.options import context_tokens, resolve_options, to_sampling
from vllama_balancer.edge.wire.images import decode_base64_image
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    import msgspec

    from vllama_balancer.edge.model_lookup import RequestedModel
    from vllama_balancer.edge.ollama.requests import Shared

_MOST_TOP_LOGPROBS = 20

_LEVELS = {
    "low": generation_pb2.THINK_LEVEL_LOW,
    "medium": generation_pb2.THINK_LEVEL_MEDIUM,
    "high": generation_pb2.THINK_LEVEL_HIGH,
    "max": generation_pb2.THINK_LEVEL_MAX,
}


def check_top_logprobs(body: Shared) -> None:
    """Raises InvalidRequest for a number outside 0..20; comes before everything about the model."""
    if body.top_logprobs is not None and not 0 <= body.top_logprobs <= _MOST_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {_MOST_TOP_LOGPROBS}", field="top_logprobs")


def fill_shared(wire: generation_pb2.GenerateRequest, body: Shared, model: RequestedModel) -> None:
    """Fills in what both kinds of request have. Raises InvalidRequest naming the field."""
    options = resolve_options(body.options or {}, model.entry)
    wire.sampling.CopyFrom(to_sampling(options))
    wire.max_context_tokens = context_tokens(options, model.entry)
    # False alone refuses an over-long chat; a single prompt that does not fit is refused anyway.
    drop_oldest = body.truncate is not False
    wire.truncation = generation_pb2.TRUNCATION_DROP_OLDEST if drop_oldest else generation_pb2.TRUNCATION_REJECT
    output_format = to_output_format(body.format)
    if output_format is not None:
        wire.output_format.CopyFrom(output_format)
    if body.logprobs:
        wire.logprobs = True
        wire.top_logprobs = body.top_logprobs or 0


def to_output_format(raw: msgspec.Raw) -> generation_pb2.OutputFormat | None:
    """Translates `format`: nothing, "json", or a JSON schema."""
    if bytes(raw) in (b"", b"null"):
        return None
    text = compact_json(raw)
    if text == '""':
        return None
    if text == '"json"':
        return generation_pb2.OutputFormat(json_object=True)
    if text.startswith("{"):
        return generation_pb2.OutputFormat(json_schema=text)
    raise invalid_format(text)


def invalid_format(what: str) -> InvalidRequest:
    """Makes the error for a format that cannot be served."""
    message = f'invalid format: {what}; expected "json" or a valid JSON Schema object'
    return InvalidRequest(message, field="format")


def to_think(value: object, model: RequestedModel) -> generation_pb2.ThinkLevel:
    """Translates `think`; a model that can reason does so unless told not to.

    Raises InvalidRequest for a wrong value, CapabilityMissing for a model that cannot.
    """
    can_think = model.has("thinking")
    level = _level(value)
    if level is None:
        return generation_pb2.THINK_LEVEL_ON if can_think else generation_pb2.THINK_LEVEL_UNSPECIFIED
    if level == generation_pb2.THINK_LEVEL_OFF:
        return level if can_think else generation_pb2.THINK_LEVEL_UNSPECIFIED
    model.require("thinking")
    return level


def _level(value: object) -> generation_pb2.ThinkLevel | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return generation_pb2.THINK_LEVEL_ON if value else generation_pb2.THINK_LEVEL_OFF
    if not isinstance(value, str):
        raise InvalidRequest("think must be a boolean or string", field="think")
    if value not in _LEVELS:
        message = f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)'
        raise InvalidRequest(message, field="think")
    return _LEVELS[value]


def to_images(texts: Sequence[str] | None, model: RequestedModel, field: str = "images") -> list[generation_pb2.Image]:
    """Decodes base64 pictures; none at all needs no vision. A `data:` prefix is accepted."""
    if not texts:
        return []
    model.require("vision")
    return [decode_base64_image(_without_prefix(text), f"{field}[{index}]") for index, text in enumerate(texts)]


def _without_prefix(text: str) -> str:
    return text.partition(",")[2] if text.startswith("data:") else text
