"""`vllama serve`: becomes the balancer, flags untouched, so its help is this command's help."""

from __future__ import annotations

import typer  # noqa: TC002 - typer reads the annotations when the command is built

from vllama_clients.cli.replace import replace


def command(context: typer.Context) -> None:
    """Serves models over the Ollama, OpenAI and gRPC APIs."""
    replace("vllama_balancer", context.args)
