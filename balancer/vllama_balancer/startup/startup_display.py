"""The display while workers start (moving lines on a terminal, log lines elsewhere), and the banner at its end.

What the balancer logs anyway is not shown again: that a worker is started, ready, or ended, and why.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.workers.status import PHASES
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from vllama_balancer.gateway import ModelEntry
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker

REFRESH_SECONDS = 0.25

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Line:
    """One worker's line."""

    worker: str
    """Its name."""
    doing: str
    """Its state in words."""
    percent: int = 0
    """Progress of that; 0 when it is not known."""


def line_of(worker: Worker) -> Line:
    """Returns a worker's state in words."""
    process, report = worker.process, worker.report
    if process.state is not ProcessState.RUNNING:
        return Line(worker.name, f"{process.state.value}: {process.reason}".rstrip(": "))
    if report is None:
        return Line(worker.name, "starting")
    if report.state == worker_pb2.WORKER_STATE_READY:
        return Line(worker.name, "ready")
    if report.state == worker_pb2.WORKER_STATE_FAILED:
        return Line(worker.name, f"failed: {report.failure}")
    if report.state == worker_pb2.WORKER_STATE_DRAINING:
        return Line(worker.name, "draining")
    return Line(worker.name, PHASES.get(report.phase, "starting"), int(report.progress * 100))


def _phase(worker: Worker) -> str:
    """Returns the phase of a running start; empty for all other states."""
    report = worker.report
    if worker.process.state is not ProcessState.RUNNING or report is None:
        return ""
    return PHASES.get(report.phase, "") if report.state == worker_pb2.WORKER_STATE_STARTING else ""


class StartupDisplay:
    """Shows one line per worker from `run` until it is cancelled. A log gets one line for each phase of a start."""

    def __init__(self, pool: Pool, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._stream = stream
        self._clock = clock
        self._since: dict[str, float] = {}
        self._logged: dict[str, str] = {}

    async def run(self) -> None:
        """Refreshes the display until cancelled; on a terminal it then disappears, and the log's lines remain."""
        if not self._stream.isatty():
            while True:
                self.log_changes()
                await asyncio.sleep(REFRESH_SECONDS)
        with Live(console=Console(file=self._stream), auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._table(), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)

    def log_changes(self) -> None:
        """Logs the phase of every worker that has reached another one."""
        for worker in self._pool.workers():
            seconds, phase = self._seconds(worker.name), _phase(worker)
            if phase and self._logged.get(worker.name) != phase:
                self._logged[worker.name] = phase
                logger.info("worker %s: %s (%.0f s)", worker.name, phase, seconds)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for line in map(line_of, self._pool.workers()):
            seconds = self._seconds(line.worker)
            table.add_row(line.worker, line.doing, f"{line.percent}%" if line.percent else "", f"{seconds:.0f} s")
        return table

    def _seconds(self, worker: str) -> float:
        now = self._clock()
        return now - self._since.setdefault(worker, now)


def banner(models: Sequence[ModelEntry], workers: int, http_url: str, grpc_address: str, elapsed_seconds: float) -> str:
    """Returns what is printed when the fleet is ready: models, addresses, and one command to try."""
    names = ", ".join(model.name for model in models if model.replicas) or "no model"
    count = f"{workers} worker" + ("" if workers == 1 else "s")
    lines = [
        f"vllama serves {names} on {count} ({elapsed_seconds:.0f} s)",
        f"  Ollama and OpenAI API  {http_url}",
        f"  gRPC                   {grpc_address}",
    ]
    ready = next((model for model in models if model.replicas), None)
    if ready is not None:
        lines.append(f"Try: {_command(ready, http_url)}")
    return "\n".join(lines) + "\n"


def _command(model: ModelEntry, http_url: str) -> str:
    body: dict[str, object]
    capabilities = model.description.capabilities if model.description is not None else ()
    if worker_pb2.CAPABILITY_CHAT in capabilities:
        path, body = "chat", {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}
    elif worker_pb2.CAPABILITY_EMBEDDING in capabilities:
        path, body = "embed", {"input": "Why is the sky blue?"}
    else:
        path, body = "generate", {"prompt": "The sky is blue because"}
    return f"curl {http_url}/api/{path} -d '{json.dumps({'model': model.name, **body})}'"
