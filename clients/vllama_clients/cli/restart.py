"""`vllama restart`: restarts workers one after the other, so that no request fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vllama_clients.cli.fleet_client import fleet_of
from vllama_clients.cli.fleet_table import state

if TYPE_CHECKING:
    from vllama_protos.v1 import fleet_pb2


def command(
    context: typer.Context,
    workers: Annotated[list[str] | None, typer.Argument(help="Names of the workers; none means all.")] = None,
    rolling: Annotated[
        bool, typer.Option("--rolling", help="One worker after the other: the only way there is, and the default.")
    ] = True,
) -> None:
    """Restarts workers one after the other, each drained first, so that no request fails.

    Example: vllama restart worker-0 worker-1
    """
    with fleet_of(context.obj) as fleet:
        printed = {worker.name: _version(worker) for worker in fleet.list().workers}
        for moment in fleet.restart(workers or []):
            for worker in moment.workers:
                if printed.get(worker.name) != _version(worker):
                    printed[worker.name] = _version(worker)
                    print(f"{worker.name}: {state(worker)}, process {worker.pid}", flush=True)
    print("restarted")


def _version(worker: fleet_pb2.WorkerStatus) -> tuple[int, str]:
    """Returns what a printed line shows: the worker's process and its state."""
    return worker.pid, state(worker)
