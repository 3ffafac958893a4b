"""`vllama rm`: deletes models from the store."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama_clients.cli.api import api_of_environment


def command(models: Annotated[list[str], typer.Argument(help="The models' names.")]) -> None:
    """Deletes models."""
    api = api_of_environment()
    for model in models:
        api.delete("/api/delete", {"model": model})
        print(f"deleted {model!r}")
