"""`vllama stop`: unloads models once they are idle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vllama_clients.cli.api import api_of
from vllama_clients.cli.fleet_client import fleet_of
from vllama_protos.v1 import fleet_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

DONE = {
    fleet_pb2.UNLOAD_OUTCOME_NOT_LOADED: "is not loaded",
    fleet_pb2.UNLOAD_OUTCOME_UNLOADED: "is unloaded; its next request loads it again",
    fleet_pb2.UNLOAD_OUTCOME_WHEN_IDLE: "is in use, and is unloaded when its requests have ended",
}
"""What a balancer did, in words."""


def command(context: typer.Context, models: Annotated[list[str], typer.Argument(help="The models' names.")]) -> None:
    """Unloads models.

    Prints what became of each; its next request loads it again. A vllama server takes the order by gRPC, and unloads
    models that its command line names, too. Without that, models that the server was started with stay.

    Example: vllama stop qwen2.5:7b
    """
    for model in models:
        print(_unload(context.obj, model))


def _unload(environment: Mapping[str, str], model: str) -> str:
    """Unloads one model and returns what was done."""
    with fleet_of(environment) as fleet:
        done = fleet.unload(model)
    if done is not None:
        return f"{done.model} {DONE.get(done.outcome, 'is unloaded')}"
    api_of(environment).post("/api/generate", {"model": model, "keep_alive": 0, "stream": False})
    return f"{model} is unloaded as soon as it is idle, unless the server was started with it"
