"""`vllama list`: the models that are installed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from vllama_clients.cli.api import api_of
from vllama_clients.cli.columns import ago, columns, moment, size


def command(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(help="Only models whose name begins so.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Lists the models that are installed.

    Example: vllama list qwen
    """
    models = api_of(context.obj).get("/api/tags").get("models") or []
    models = [model for model in models if model["name"].lower().startswith(prefix.lower())]
    if as_json:
        print(json.dumps(models, indent=2))
        return
    now = datetime.now(UTC)
    print(
        columns(
            ("NAME", "ID", "SIZE", "MODIFIED"),
            (
                (model["name"], model["digest"][:12], size(model["size"]), ago(moment(model["modified_at"]), now))
                for model in models
            ),
        )
    )
