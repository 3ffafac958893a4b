"""What a person sees while models load: one live line for each worker, or plain lines off a terminal.

It reads the pool and writes to a stream, and nothing depends on it: a service manager's log gets one line for each
step, a terminal gets lines that move.

What is printed when the fleet is ready: the addresses, and one command to try.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rich.console import Console as RichConsole
from rich.live import Live
from rich.table import Table

from vllama_balancer.fleet.events import Changed, ProcessState
from vllama_balancer.workers.start_progress import PHASES
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from vllama_balancer.gateway import ModelEntry


REFRESH_SECONDS = 0.25


class ShownWorker(Protocol):
    """What the display asks of a worker."""

    @property
    def name(self) -> str:
        """Name of the worker."""
        ...

    @property
    def process(self) -> Changed:
        """What its supervisor said last."""
        ...

    @property
    def report(self) -> worker_pb2.WorkerReport | None:
        """Its last report."""
        ...


class ShownPool(Protocol):
    """What the display asks of the pool."""

    def workers(self) -> Sequence[ShownWorker]:
        """Lists the workers by name."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """One worker's line."""

    worker: str
    """Its name."""
    doing: str
    """What it is doing."""
    percent: int = 0
    """How far that is; 0 when it cannot be told."""

    @property
    def text(self) -> str:
        """The line without its time."""
        return f"{self.worker}: {self.doing}" + (f" {self.percent}%" if self.percent else "")


def line_of(worker: ShownWorker) -> Line:
    """Words a worker's state."""
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


class StartupDisplay:
    """Shows the workers from `run` until it is cancelled."""

    def __init__(self, pool: ShownPool, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._stream = stream
        self._clock = clock
        self._since: dict[str, float] = {}
        self._shown: dict[str, tuple[str, str]] = {}

    async def run(self) -> None:
        """Refreshes the display until cancelled; the last state stays on the screen."""
        if not self._stream.isatty():
            try:
                while True:
                    self.print_news()
                    await asyncio.sleep(REFRESH_SECONDS)
            finally:
                self.print_news()
        with Live(console=RichConsole(file=self._stream), auto_refresh=False) as live:
            try:
                while True:
                    live.update(self._table(), refresh=True)
                    await asyncio.sleep(REFRESH_SECONDS)
            finally:
                live.update(self._table(), refresh=True)

    def print_news(self) -> None:
        """Prints a plain line for every worker that does something else than before."""
        for line in map(line_of, self._pool.workers()):
            seconds = self._seconds(line.worker)
            if self._shown.get(line.worker) != (news := (line.worker, line.doing)):
                self._shown[line.worker] = news
                self._stream.write(f"{line.text} ({seconds:.0f} s)\n")
                self._stream.flush()

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
    """Words it for people."""
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
