"""`vllama drain`: takes one worker out of service when its streams have ended."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama_clients.cli.failure import CommandFailed
from vllama_clients.cli.fleet_client import fleet_of


def command(
    context: typer.Context,
    worker: Annotated[str, typer.Argument(help="Name of the worker, as `vllama top` shows it.")],
    timeout_seconds: Annotated[
        float | None,
        typer.Option(
            "--timeout", min=0, help="Seconds that running streams may take; without it, the server's --drain-timeout."
        ),
    ] = None,
) -> None:
    """Takes a worker out of service when its streams have ended.

    Ends with status 1 if streams were still running when the time was over. Ctrl-C before that leaves the worker in
    service.

    Example: vllama drain worker-0 --timeout 60
    """
    with fleet_of(context.obj) as fleet:
        remaining = fleet.drain(worker, timeout_seconds)
    if remaining:
        raise CommandFailed(
            f"{worker} is drained, but {remaining} streams had not ended in time; --timeout gives them longer."
        )
    print(f"{worker} is drained")
