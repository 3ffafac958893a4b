"""The fleet as a table: one line per worker, the balancer's queue and the fleet's speed below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from vllama_protos.v1 import fleet_pb2

COLUMNS = ("worker", "state", "model", "streams", "queue", "KV", "tokens/s", "prefill/s", "step", "hits")
COUNTERS = ("restarts", "up")
LEFT = ("worker", "state", "model")
UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def fleet_table(fleet: fleet_pb2.ListWorkersResponse) -> Table:
    """Builds the table."""
    table = Table(caption=summary(fleet), caption_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in (*COLUMNS, *COUNTERS):
        table.add_column(name.upper(), justify="left" if name in LEFT else "right", no_wrap=name != "state")
    for worker in fleet.workers:
        table.add_row(*_row(worker))
    return table


def summary(fleet: fleet_pb2.ListWorkersResponse) -> str:
    """Sums the fleet up in one line."""
    serving = sum(worker.available for worker in fleet.workers)
    streams = sum(worker.leases for worker in fleet.workers)
    speed = sum(worker.report.decode_tokens_per_second for worker in fleet.workers)
    return (
        f"{serving} of {len(fleet.workers)} workers serve   {streams} streams   "
        f"{fleet.queued_requests} queued   {speed:.0f} tokens/s"
    )


def state(worker: fleet_pb2.WorkerStatus) -> str:
    """Names what a worker is doing, in a word or two; why, when it does not serve."""
    report = worker.report
    if worker.available:
        return "ready"
    if worker.HasField("retry_in"):
        return f"retry in {worker.retry_in.ToTimedelta().total_seconds():.0f} s"
    if report.state == worker_pb2.WORKER_STATE_STARTING:
        percent = f" {report.progress:.0%}" if report.progress else ""
        return f"{_word(worker_pb2.StartPhase.Name(report.phase), 'START_PHASE_')}{percent}"
    if report.state in (worker_pb2.WORKER_STATE_FAILED, worker_pb2.WORKER_STATE_DRAINING):
        return _word(worker_pb2.WorkerState.Name(report.state), "WORKER_STATE_")
    return worker.reason or "out"


def why(worker: fleet_pb2.WorkerStatus) -> str:
    """Tells why a worker does not serve; empty when it does, or when it only starts."""
    if worker.available or worker.report.state == worker_pb2.WORKER_STATE_STARTING:
        return ""
    return worker.report.failure or worker.reason


def _row(worker: fleet_pb2.WorkerStatus) -> list[str | Text]:
    report, description = worker.report, worker.description
    step_seconds = report.step.ToTimedelta().total_seconds()
    streams = f"{worker.leases}/{description.max_streams}" if description.max_streams else str(worker.leases)
    return [
        worker.name,
        Text(state(worker), style=_style(worker)),
        (description.models[0] if description.models else "-") + (" (simulated)" if description.simulated else ""),
        streams,
        str(report.waiting),
        f"{report.kv_cache_use:.0%}",
        f"{report.decode_tokens_per_second:.0f}",
        f"{report.prefill_tokens_per_second:.0f}" if report.prefill_tokens_per_second else "-",
        f"{step_seconds * 1000:.1f} ms" if step_seconds else "-",
        f"{report.prefix_hit_rate:.0%}",
        str(worker.restarts),
        _length(report.uptime.ToTimedelta().total_seconds()),
    ]


def _style(worker: fleet_pb2.WorkerStatus) -> str:
    if worker.available:
        return "green"
    return "yellow" if worker.report.state == worker_pb2.WORKER_STATE_STARTING else "red"


def _word(name: str, prefix: str) -> str:
    word = name.removeprefix(prefix).replace("_", " ").lower()
    return "starting" if word == "unspecified" else word


def _length(seconds: float) -> str:
    return next((f"{int(seconds // unit)}{letter}" for unit, letter in UNITS if seconds >= unit), "-")
