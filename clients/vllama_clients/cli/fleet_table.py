"""The fleet as plain columns: one line per worker, the balancer's queue and the fleet's speed below.

If the width does not suffice, whole columns are left out, the least useful first: a cut name would be useless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_clients.cli.columns import columns
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set

    from vllama_protos.v1 import fleet_pb2

LEAST_USEFUL_FIRST = ("PREFILL/S", "STEP", "HITS", "UP", "QUEUE", "MODEL", "RESTARTS", "KV", "TTFT P50/P99", "TOKENS/S")
"""Columns in the order in which they are left out."""
HEADER = (
    "WORKER", "STATE", "MODEL", "STREAMS", "QUEUE", "KV", "TOKENS/S", "TTFT P50/P99", "PREFILL/S", "STEP", "HITS",
)  # fmt: skip
COUNTERS = ("RESTARTS", "UP")
DEATHS_TO_SHOW = 2
"""One death may happen; a second one has a cause to look for."""
UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def fleet_text(fleet: fleet_pb2.ListWorkersResponse, width: int | None) -> str:
    """Writes the fleet into that many columns of text; None takes what it needs."""
    left_out: set[str] = set()
    rows = [_row(worker) for worker in fleet.workers]
    text = _columns(rows, left_out)
    for name in LEAST_USEFUL_FIRST:
        if width is None or max(len(line) for line in text.splitlines()) <= width:
            break
        left_out.add(name)
        text = _columns(rows, left_out)
    causes = [f"{worker.name}: {why(worker)}" for worker in fleet.workers if why(worker)]
    repeated = [f"{worker.name}: {deaths(worker)}" for worker in fleet.workers if deaths(worker)]
    return "\n\n".join([text, summary(fleet), *causes, *repeated])


def summary(fleet: fleet_pb2.ListWorkersResponse) -> str:
    """Sums the fleet up in one line."""
    serving = sum(worker.available for worker in fleet.workers)
    asleep = sum(worker.report.state == worker_pb2.WORKER_STATE_SLEEPING for worker in fleet.workers)
    sleeping = f", {asleep} asleep" if asleep else ""
    streams = sum(worker.leases for worker in fleet.workers)
    speed = sum(worker.report.decode_tokens_per_second for worker in fleet.workers)
    return (
        f"{serving} of {len(fleet.workers)} workers serve{sleeping}   {streams} streams   "
        f"{fleet.queued_requests} queued   {speed:.0f} tokens/s"
    )


def state(worker: fleet_pb2.WorkerStatus, *, progress: bool = True) -> str:
    """Names what a worker is doing, in a word or two, and how far it is with it."""
    report = worker.report
    if worker.available:
        return "ready"
    if worker.HasField("retry_in"):
        return f"retry in {worker.retry_in.ToTimedelta().total_seconds():.0f} s"
    if report.state == worker_pb2.WORKER_STATE_STARTING:
        percent = f" {report.progress:.0%}" if progress and report.progress else ""
        return f"{_word(worker_pb2.StartPhase.Name(report.phase), 'START_PHASE_')}{percent}"
    if report.state == worker_pb2.WORKER_STATE_SLEEPING:
        return "asleep"
    if report.state in (worker_pb2.WORKER_STATE_FAILED, worker_pb2.WORKER_STATE_DRAINING):
        return _word(worker_pb2.WorkerState.Name(report.state), "WORKER_STATE_")
    return worker.reason or "out"


def why(worker: fleet_pb2.WorkerStatus) -> str:
    """Returns why a worker does not serve; empty when it does, or when it only starts or sleeps."""
    expected = (worker_pb2.WORKER_STATE_STARTING, worker_pb2.WORKER_STATE_SLEEPING)
    if worker.available or worker.report.state in expected:
        return ""
    return worker.report.failure or worker.reason


def deaths(worker: fleet_pb2.WorkerStatus) -> str:
    """Returns how often a worker has died and why the last time; empty before its second death."""
    if worker.deaths < DEATHS_TO_SHOW:
        return ""
    return f"died {worker.deaths} times, the last time: {worker.last_death}"


def _row(worker: fleet_pb2.WorkerStatus) -> dict[str, str]:
    report, description = worker.report, worker.description
    step_seconds = report.step.ToTimedelta().total_seconds()
    prefill = report.prefill_tokens_per_second
    model = description.models[0] if description.models else "-"
    return {
        "WORKER": worker.name,
        "STATE": state(worker),
        "MODEL": f"{model} (simulated)" if description.simulated else model,
        "STREAMS": f"{worker.leases}/{description.max_streams}" if description.max_streams else str(worker.leases),
        "QUEUE": str(report.waiting),
        "KV": f"{report.kv_cache_use:.0%}",
        "TOKENS/S": f"{report.decode_tokens_per_second:.0f}",
        "TTFT P50/P99": _first_token(worker),
        "PREFILL/S": f"{prefill:.0f}" if prefill else "-",
        "STEP": f"{step_seconds * 1000:.1f} ms" if step_seconds else "-",
        "HITS": f"{report.prefix_hit_rate:.0%}",
        "RESTARTS": str(worker.restarts),
        "UP": _length(report.uptime.ToTimedelta().total_seconds()),
    }


def _first_token(worker: fleet_pb2.WorkerStatus) -> str:
    if not worker.HasField("time_to_first_token_p50"):
        return "-"
    quantiles = (worker.time_to_first_token_p50, worker.time_to_first_token_p99)
    return "/".join(_short(quantile.ToTimedelta().total_seconds()) for quantile in quantiles)


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _columns(rows: Sequence[Mapping[str, str]], left_out: Set[str]) -> str:
    shown = [name for name in (*HEADER, *COUNTERS) if name not in left_out]
    return columns(shown, [[row[name] for name in shown] for row in rows])


def _word(name: str, prefix: str) -> str:
    word = name.removeprefix(prefix).replace("_", " ").lower()
    return "starting" if word == "unspecified" else word


def _length(seconds: float) -> str:
    return next((f"{int(seconds // unit)}{letter}" for unit, letter in UNITS if seconds >= unit), "-")
