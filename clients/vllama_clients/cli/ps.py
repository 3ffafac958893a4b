"""`vllama ps`: the models that are loaded, where they run and until when, and those being loaded."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from vllama_clients.cli.api import Api, api_of
from vllama_clients.cli.columns import columns, moment, size, until
from vllama_clients.cli.failure import CommandFailed

HEADER = ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "REPLICAS", "UNTIL")


def command(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False
) -> None:
    """Lists the models that are loaded, being loaded, or asleep.

    Example: vllama ps --json
    """
    api = api_of(context.obj)
    models = api.get("/api/ps").get("models") or []
    others = _not_loaded(api)
    if as_json:
        print(json.dumps([{**model, "state": "loaded"} for model in models] + others, indent=2))
        return
    rows = [_row(model, datetime.now(UTC)) for model in models] + [_unloaded_row(model) for model in others]
    # An Ollama server reports no replicas.
    header = [name for name in HEADER if name != "REPLICAS" or any("replicas" in model for model in models)]
    print(columns(header, [[row[name] for name in header] for row in rows]))


def _not_loaded(api: Api) -> list[dict[str, Any]]:
    """Returns the models that are being loaded or asleep; none from an Ollama server."""
    try:
        fleet = api.get("/fleet")
    except CommandFailed:
        return []
    loading = [{"name": name, "state": "loading", "progress": far} for name, far in fleet.get("loading", {}).items()]
    return loading + [{"name": name, "state": "asleep"} for name in fleet.get("asleep", [])]


def _unloaded_row(model: dict[str, Any]) -> dict[str, str]:
    return {**dict.fromkeys(HEADER, "-"), "NAME": model["name"], "UNTIL": model.get("progress", model["state"])}


def _row(model: dict[str, Any], now: datetime) -> dict[str, str]:
    return {
        "NAME": model["name"],
        "ID": model["digest"][:12],
        "SIZE": size(model["size"]),
        "PROCESSOR": processor(model),
        "CONTEXT": str(model.get("context_length") or "-"),
        "REPLICAS": str(model.get("replicas", "-")),
        "UNTIL": until(moment(model.get("expires_at", "")), now),
    }


def processor(model: dict[str, Any]) -> str:
    """Returns where the weights lie, from how many of their bytes are in a GPU's memory."""
    total, on_gpu = model["size"], model.get("size_vram", 0)
    if on_gpu == 0:
        return "100% CPU"
    if on_gpu >= total:
        return "100% GPU"
    percent = round(100 * (total - on_gpu) / total)
    return f"{percent}%/{100 - percent}% CPU/GPU"
