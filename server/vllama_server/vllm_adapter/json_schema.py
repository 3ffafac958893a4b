"""JSON schemas without the keywords that the grammar backend cannot enforce.

vLLM refuses a schema for any of them, pydantic's `set[...]` included. Ollama drops what its grammar does not have and
forces the rest, so that is what happens here: the output has the schema's shape, and may break a dropped rule.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vllm.v1.structured_output.backend_xgrammar import STRING_SUPPORTED_FORMATS, has_xgrammar_unsupported_json_features

if TYPE_CHECKING:
    from collections.abc import Mapping

_LENGTHS = ("minLength", "maxLength")
_ARRAY_RULES = ("uniqueItems", "contains", "minContains", "maxContains")


def enforceable(schema: str) -> str:
    """Returns the JSON text of a schema that xgrammar enforces; the same text if it enforces all of it.

    A text that is no JSON object stays as it is: its refusal is vLLM's.
    """
    try:
        value = json.loads(schema)
    except (ValueError, RecursionError):
        return schema
    if not isinstance(value, dict) or not has_xgrammar_unsupported_json_features(value):
        return schema
    return json.dumps(_Simplifier(value).simplified(value), ensure_ascii=False)


class _Simplifier:
    """Rewrites one schema; `root` has the definitions that its references name."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def simplified(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.simplified(item) for item in value]
        if not isinstance(value, dict):
            return value
        schema = dict(value)
        if isinstance(schema.get("allOf"), list) and len(schema["allOf"]) > 1:
            schema = self._merged(schema)
        for key in _dropped(schema):
            schema.pop(key, None)
        return {key: self.simplified(item) for key, item in schema.items()}

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Returns a schema with the parts of `allOf` in it: all properties, all that is required, common values."""
        parts = schema.pop("allOf")
        for part in parts:
            for key, item in self._resolved(part).items():
                schema[key] = _combined(key, schema[key], item) if key in schema else item
        return schema

    def _resolved(self, part: Any) -> dict[str, Any]:
        """Returns what a reference within the schema names; a reference that leads elsewhere stays."""
        if not isinstance(part, dict):
            return {}
        reference = part.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return part
        found: Any = self._root
        for name in reference[2:].split("/"):
            found = found.get(name) if isinstance(found, dict) else None
        return (
            {**found, **{key: item for key, item in part.items() if key != "$ref"}} if isinstance(found, dict) else part
        )


def _combined(key: str, one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {**one, **other}
    if isinstance(one, list) and isinstance(other, list):
        if key == "enum":
            return [value for value in one if value in other]
        return [*one, *(value for value in other if value not in one)]
    return other


def _dropped(schema: Mapping[str, Any]) -> list[str]:
    """Returns the keywords of one schema, without those within it, that xgrammar cannot enforce."""
    given = schema.get("type")
    types = {given} if isinstance(given, str) else {item for item in given or () if isinstance(item, str)}
    dropped: list[str] = []
    if types & {"integer", "number"}:
        dropped.append("multipleOf")
    if "array" in types:
        dropped += _ARRAY_RULES
    if "string" in types:
        is_unknown = schema.get("format") not in STRING_SUPPORTED_FORMATS
        if is_unknown:
            dropped.append("format")
        if "pattern" in schema or not is_unknown:
            dropped += _LENGTHS
    if "object" in types:
        dropped += _dropped_of_object(schema)
    return dropped


def _dropped_of_object(schema: Mapping[str, Any]) -> list[str]:
    """Returns the rules for names of properties that do not go together with others."""
    dropped = []
    patterns, names = schema.get("patternProperties"), schema.get("propertyNames")
    if isinstance(patterns, dict) and ("properties" in schema or len(patterns) > 1):
        dropped.append("patternProperties")
    is_long = isinstance(names, dict) and any(key in names for key in _LENGTHS)
    if is_long or patterns or "properties" in schema or schema.get("unevaluatedProperties", True) is not True:
        dropped.append("propertyNames")
    return dropped
