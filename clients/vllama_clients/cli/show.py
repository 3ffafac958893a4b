"""`vllama show`: the facts about one model."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vllama_clients.cli.api import api_of

LICENSE_LINES = 2
"""Lines of a licence that name it."""


def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model's name.")],
    license_text: Annotated[bool, typer.Option("--license", help="Print the licence only.")] = False,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="Print the Modelfile only.")] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="Print the parameters only.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Print the system text only.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Print the chat template only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Shows what is known of a model.

    Example: vllama show smollm2:135m --template
    """
    parts = {
        "license": license_text,
        "modelfile": modelfile,
        "parameters": parameters,
        "system": system,
        "template": template,
    }
    chosen = [name for name, flag in parts.items() if flag]
    if len(chosen) > 1:
        raise typer.BadParameter(f"give one of {', '.join(f'--{name}' for name in parts)}")
    reply = api_of(context.obj).post("/api/show", {"model": model})
    if as_json:
        print(json.dumps(reply, indent=2))
    elif chosen:
        print(reply.get(chosen[0], ""))
    else:
        print(page(reply))


def page(reply: dict[str, Any]) -> str:
    """Writes the whole answer as sections."""
    sections = [
        ("Model", facts(reply)),
        ("Capabilities", list(reply.get("capabilities", []))),
        ("Parameters", _lines(reply.get("parameters"))),
        ("System", _lines(reply.get("system"))),
        ("License", _lines(reply.get("license"))[:LICENSE_LINES]),
    ]
    return "\n\n".join(_section(title, lines) for title, lines in sections if lines)


def facts(reply: dict[str, Any]) -> list[str]:
    """Writes architecture, size and lengths, one on a line."""
    details, info = reply.get("details", {}), reply.get("model_info", {})
    architecture = info.get("general.architecture", details.get("family", ""))
    found = {
        "architecture": architecture,
        "parameters": details.get("parameter_size"),
        "context length": info.get(f"{architecture}.context_length"),
        "embedding length": info.get(f"{architecture}.embedding_length"),
        "quantization": details.get("quantization_level"),
    }
    return [f"{name:<20}{value}" for name, value in found.items() if value]


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"  {title}", *(f"    {line}" for line in lines)])


def _lines(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]
