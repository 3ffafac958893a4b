"""`vllama ps`: the models that are loaded, where they run and until when."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from vllama_clients.cli.api import api_of
from vllama_clients.cli.columns import columns, moment, size, until


def command(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False
) -> None:
    """Lists the models that are loaded."""
    models = api_of(context.obj).get("/api/ps").get("models") or []
    if as_json:
        print(json.dumps(models, indent=2))
        return
    now = datetime.now(UTC)
    print(
        columns(
            ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "REPLICAS", "UNTIL"),
            (
                (
                    model["name"],
                    model["digest"][:12],
                    size(model["size"]),
                    processor(model),
                    str(model.get("context_length") or "-"),
                    str(model.get("replicas") or "-"),
                    until(moment(model.get("expires_at", "")), now),
                )
                for model in models
            ),
        )
    )


def processor(model: dict[str, Any]) -> str:
    """Tells where the weights lie, from how many of their bytes are in a GPU's memory."""
    total, on_gpu = model["size"], model.get("size_vram", 0)
    if on_gpu == 0:
        return "100% CPU"
    if on_gpu >= total:
        return "100% GPU"
    percent = round(100 * (total - on_gpu) / total)
    return f"{percent}%/{100 - percent}% CPU/GPU"
