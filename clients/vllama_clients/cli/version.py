"""`vllama version`: the versions of this command and of the server."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Annotated

import typer

from vllama_clients.cli.api import api_of
from vllama_clients.cli.failure import CommandFailed

DISTRIBUTION = "vllama-serve"


def command(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False
) -> None:
    """Prints the versions of this command and of the server.

    Example: vllama version --json
    """
    api = api_of(context.obj)
    own, served, trouble = version(DISTRIBUTION), None, ""
    try:
        served = api.get("/api/version").get("version")
    except CommandFailed as failure:
        trouble = str(failure)
    if as_json:
        print(json.dumps({"client": own, "ollama_api": served}))
        return
    print(f"vllama {own}")
    # The server's number is the Ollama version whose API it speaks: tools compare it with their own needs.
    print(f"Ollama API {served} at {api.address}" if served else trouble)
