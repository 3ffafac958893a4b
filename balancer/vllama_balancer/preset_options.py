"""Option values of presets: plain values to the typed ones of the protos and back, without loss."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vllama_protos.v1 import presets_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_INT64 = range(-(2**63), 2**63)


def to_options(values: Mapping[str, Any]) -> list[presets_pb2.ModelOption]:
    """Returns the options for values as JSON and TOML have them, in their order."""
    return [_to_option(name, value) for name, value in values.items()]


def option_values(options: Iterable[presets_pb2.ModelOption]) -> dict[str, Any]:
    """Returns the values by name: the inverse of `to_options`."""
    return {option.name: _value(option) for option in options}


def _to_option(name: str, value: Any) -> presets_pb2.ModelOption:
    option = presets_pb2.ModelOption(name=name)
    match value:
        case bool():
            option.flag = value
        case int() if value in _INT64:
            option.integer = value
        case float():
            option.number = value
        case str():
            option.text = value
        case list() | tuple() if all(isinstance(each, str) for each in value):
            option.texts.texts.extend(value)
            option.texts.SetInParent()
        case _:
            option.json = json.dumps(value)
    return option


def _value(option: presets_pb2.ModelOption) -> Any:
    match option.WhichOneof("value"):
        case "texts":
            return list(option.texts.texts)
        case "json":
            return json.loads(option.json)
        case str() as kind:
            return getattr(option, kind)
    return None
