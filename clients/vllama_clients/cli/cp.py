"""`vllama cp`: gives a model a second name."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama_clients.cli.api import api_of


def command(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="The model's name.")],
    destination: Annotated[str, typer.Argument(help="The new name.")],
) -> None:
    """Gives a model a second name; the weights are shared.

    Example: vllama cp qwen2.5:7b helper
    """
    api_of(context.obj).post("/api/copy", {"source": source, "destination": destination})
    print(f"copied {source!r} to {destination!r}")
