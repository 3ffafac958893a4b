"""`vllama key`: becomes the balancer's maker of API keys."""

from __future__ import annotations

import typer  # noqa: TC002 - typer reads the annotations when the command is built

from vllama_clients.cli.replace import replace


def command(context: typer.Context) -> None:
    """Makes an API key and the line for the server's key file."""
    replace("vllama_balancer.keys", context.args)
