"""`vllama restart`: restarts workers one after the other, so that no request fails."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from vllama_clients.cli.fleet_client import fleet_of
from vllama_clients.cli.fleet_table import state


def command(
    workers: Annotated[list[str] | None, typer.Argument(help="Names of the workers; none means all.")] = None,
) -> None:
    """Restarts workers one after the other, each drained first, so that no request fails."""
    told: dict[str, str] = {}
    with fleet_of(os.environ) as fleet:
        for moment in fleet.restart(workers or []):
            for worker in moment.workers:
                now = state(worker)
                if told.setdefault(worker.name, now) != now:
                    told[worker.name] = now
                    print(f"{worker.name}: {now}", flush=True)
    print("restarted")
