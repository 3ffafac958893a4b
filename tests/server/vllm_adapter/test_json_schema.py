"""Schemas that xgrammar does not take as they are: served without what it cannot enforce."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

from vllama_server.vllm_adapter.json_schema import enforceable

TEXTS = {"type": "array", "items": {"type": "string"}}
NAMED = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
OTHER = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}
BOTH = {"type": "object", "properties": {**NAMED["properties"], **OTHER["properties"]}, "required": ["a", "b"]}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("given", "served"),
    [
        ({**TEXTS, "uniqueItems": True}, TEXTS),
        (
            {**TEXTS, "contains": {"const": "x"}, "minContains": 1, "maxContains": 2, "minItems": 1},
            {**TEXTS, "minItems": 1},
        ),
        ({"type": "integer", "multipleOf": 7, "minimum": 1}, {"type": "integer", "minimum": 1}),
        ({"type": ["number", "null"], "multipleOf": 0.5}, {"type": ["number", "null"]}),
        ({"type": "string", "format": "binary", "maxLength": 3}, {"type": "string", "maxLength": 3}),
        ({"type": "string", "format": "date", "maxLength": 30}, {"type": "string", "format": "date"}),
        ({"type": "string", "pattern": "^a+$", "minLength": 2}, {"type": "string", "pattern": "^a+$"}),
        ({**NAMED, "patternProperties": {"^x": {}}}, NAMED),
        ({**NAMED, "propertyNames": {"pattern": "^a"}}, NAMED),
        ({"type": "object", "patternProperties": {"^x": {}, "^y": {}}}, {"type": "object"}),
        ({"allOf": [NAMED, OTHER]}, BOTH),
        ({"allOf": [{"$ref": "#/$defs/N"}, OTHER], "$defs": {"N": NAMED}}, {"$defs": {"N": NAMED}, **BOTH}),
        ({"allOf": [{"type": "string"}, {"enum": ["a", "b"]}, {"enum": ["b"]}]}, {"type": "string", "enum": ["b"]}),
        (
            {"type": "object", "properties": {"tags": {**TEXTS, "uniqueItems": True}}},
            {"type": "object", "properties": {"tags": TEXTS}},
        ),
        (
            {"type": "object", "properties": {"uniqueItems": TEXTS, "n": {"type": "integer", "multipleOf": 2}}},
            {"type": "object", "properties": {"uniqueItems": TEXTS, "n": {"type": "integer"}}},
        ),
    ],
)
def test_what_cannot_be_enforced_is_dropped(given: dict[str, Any], served: dict[str, Any]) -> None:
    """At any depth, the order of properties kept; what is left is accepted by vLLM."""
    text = enforceable(json.dumps(given))
    assert json.loads(text) == served
    validate_xgrammar_grammar(SamplingParams(structured_outputs=StructuredOutputsParams(json=text)))


@pytest.mark.parametrize("text", ['{"type":  "object"}', "true", "[1]", "{no json", '{"properties": {"allOf": {}}}'])
def test_everything_else_stays_as_it_is(text: str) -> None:
    """To the last blank."""
    assert enforceable(text) == text
