"""Set-up of the configured models: resolves them before workers start, and waits until workers serve."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.models.lines import ProgressLines
from vllama_balancer.models.manifest import StoredModel
from vllama_balancer.names import model_key, parse_name

if TYPE_CHECKING:
    from typing import TextIO

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.models.resolve import Resolver
    from vllama_balancer.workers.pool import Pool


async def installed(names: tuple[str, ...], resolver: Resolver, stream: TextIO) -> list[StoredModel]:
    """Resolves every name, installing what is missing and showing the progress. Raises ModelError."""
    found = []
    for name in names:
        lines = ProgressLines(stream, name)
        try:
            found.append(await resolver.resolve(name, lines.show))
        finally:
            lines.end()
    return found


def simulated(name: str) -> StoredModel:
    """Returns a model of the simulated engine, which needs no weights: any name does."""
    display = parse_name(name).display
    digest = hashlib.sha256(f"simulated:{model_key(name)}".encode()).hexdigest()
    return StoredModel(display, Path(name), digest, 0, "simulated", datetime.now(UTC))


def hosted(model: HostedModel, configured: str) -> HostedModel:
    """Adds the name that the configuration used to the names of a model, unless that is a path."""
    if configured.startswith(("/", ".", "~")):
        return model
    return replace(model, names=tuple(dict.fromkeys([*model.names, configured])))


async def first_readiness(pool: Pool) -> None:
    """Returns when no worker is still starting and at least one serves. Workers without a place do not count.

    Raises NoWorker with the causes when every local worker has been given up. There is no time limit for workers
    elsewhere.
    """
    while True:
        workers = [worker for worker in pool.workers() if worker.process.state is not ProcessState.PLACING]
        given_up = [worker for worker in workers if worker.process.state is ProcessState.FAILED]
        ready = [worker for worker in workers if not worker.unavailable]
        if ready and len(ready) + len(given_up) == len(workers):
            return
        if workers and len(given_up) == len(workers):
            raise NoWorker("; ".join(dict.fromkeys(f"{worker.name} {worker.process.reason}" for worker in given_up)))
        await pool.changes.after(pool.changes.version)
