"""`vllama pull`: downloads models."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vllama_clients.cli.api import api_of
from vllama_clients.cli.pull_progress import pull, whole


def command(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(help="The models' names.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print every progress line as JSON.")] = False,
) -> None:
    """Downloads models.

    Example: vllama pull qwen2.5:7b qwen3-embedding:0.6b
    """
    api = api_of(context.obj)
    for model in models:
        if as_json:
            for line in whole(api, model):
                print(json.dumps(line), flush=True)
        else:
            pull(api, model)
