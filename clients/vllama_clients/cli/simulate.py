"""`vllama simulate`: becomes the simulator of placement policies, flags untouched."""

from __future__ import annotations

import typer  # noqa: TC002 - typer reads the annotations when the command is built

from vllama_clients.cli.replace import replace


def command(context: typer.Context) -> None:
    """Compares placement policies on simulated fleets."""
    replace("vllama_balancer.simulate", context.args)
