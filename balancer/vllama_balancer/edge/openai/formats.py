"""Structured output: `response_format` of chat and `text.format` of responses, to the wire."""

from __future__ import annotations

from typing import Any

from vllama_balancer.edge.wire.json_text import json_text
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

_TYPES = '"text", "json_object" or "json_schema"'


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
