"""`vllama rm`: deletes models from the store."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama_clients.cli.api import api_of


def command(context: typer.Context, models: Annotated[list[str], typer.Argument(help="The models' names.")]) -> None:
    """Deletes models.

    Example: vllama rm qwen2.5:7b
    """
    api = api_of(context.obj)
    for model in models:
        api.delete("/api/delete", {"model": model})
        print(f"deleted {model!r}")
