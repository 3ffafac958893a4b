"""`vllama undrain`: takes a drain back."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama_clients.cli.fleet_client import fleet_of


def command(
    context: typer.Context,
    worker: Annotated[str, typer.Argument(help="Name of the worker, as `vllama top` shows it.")],
) -> None:
    """Puts a worker back into service that is being drained.

    Also one that was drained and still runs, because the balancer did not start it.

    Example: vllama undrain worker-0
    """
    with fleet_of(context.obj) as fleet:
        fleet.undrain(worker)
    print(f"{worker} is back in service")
