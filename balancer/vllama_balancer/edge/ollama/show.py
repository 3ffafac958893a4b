"""The reply of /api/show; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.ollama import listing
from vllama_balancer.edge.ollama.options import check_options, model_options
from vllama_balancer.names import parse_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from vllama_balancer.edge.model_lookup import RequestedModel
    from vllama_balancer.edge.ollama.listing import Details
    from vllama_balancer.edge.ollama.schema import ShowBody
    from vllama_balancer.gateway import ModelEntry

_COPILOT = "GitHubCopilotChat/"
"""User agent of the client that displays `general.basename`."""

_PARAMETER_WIDTH = 30

_PLAIN_TEMPLATE = "{{ prompt }}"
"""Template shown for a model that has none; clients need some text there."""

_INSERT_MARK = "{#- fills in the middle: .Prompt, .Suffix -#}"
"""Clients look for ".Suffix" in the template before they send a suffix."""


class PresetMessage(msgspec.Struct, frozen=True):
    """A turn before every conversation."""

    role: str
    content: str


class ShowReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model. `model_info` and `capabilities` are there even when empty."""

    license: str
    modelfile: str
    parameters: str
    template: str
    system: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: datetime
    messages: list[PresetMessage] = []
    tensors: list[Any] | msgspec.UnsetType = msgspec.UNSET


def to_show_reply(body: ShowBody, model: RequestedModel, user_agent: str) -> ShowReply:
    """Returns the details of a model. Raises InvalidRequest for an option of a wrong type."""
    entry = model.entry
    parameters = model_options(entry)
    system = entry.presets.system if body.system is None else body.system
    template = _template(model)
    basename = model.requested if user_agent.startswith(_COPILOT) else parse_name(entry.name).model
    return ShowReply(
        license=entry.license,
        modelfile=_modelfile(entry, system, template, {**parameters, **check_options(body.options or {})}),
        parameters="\n".join(_parameter_lines(parameters)),
        template=template,
        system=system,
        details=listing.details(entry),
        model_info=listing.model_info(entry, basename),
        capabilities=listing.capabilities(entry),
        modified_at=entry.modified_at,
        messages=[PresetMessage(turn.role, turn.content) for turn in entry.presets.messages],
        tensors=[] if body.verbose else msgspec.UNSET,
    )


def _template(model: RequestedModel) -> str:
    if model.entry.presets.template:
        return model.entry.presets.template
    described = model.entry.description
    template = (described.model_info.chat_template if described is not None else "") or _PLAIN_TEMPLATE
    return f"{template}{_INSERT_MARK}" if model.has("insert") else template


def _parameter_lines(parameters: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line per value, a line per stop text, strings quoted."""
    for name, value in parameters.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            yield f"{name:<{_PARAMETER_WIDTH}} {_quoted(each)}"


def _quoted(value: object) -> str:
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _modelfile(entry: ModelEntry, system: str, template: str, parameters: Mapping[str, Any]) -> str:
    lines = [f"FROM {entry.name}", f'TEMPLATE """{template}"""']
    if system:
        lines.append(f'SYSTEM """{system}"""')
    for line in _parameter_lines(parameters):
        name, _, value = line.partition(" ")
        lines.append(f"PARAMETER {name} {value.strip()}")
    lines.extend(f"MESSAGE {turn.role} {turn.content}" for turn in entry.presets.messages)
    if entry.license:
        lines.append(f'LICENSE """{entry.license}"""')
    return "\n".join(lines) + "\n"
