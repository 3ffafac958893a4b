"""`vllama stop`: unloads models once they are idle."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama_clients.cli.api import api_of


def command(context: typer.Context, models: Annotated[list[str], typer.Argument(help="The models' names.")]) -> None:
    """Unloads models.

    Example: vllama stop qwen2.5:7b
    """
    api = api_of(context.obj)
    for model in models:
        api.post("/api/generate", {"model": model, "keep_alive": 0, "stream": False})
