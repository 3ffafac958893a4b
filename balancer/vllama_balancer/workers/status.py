"""The public status of one worker, for the fleet API and the dashboard, and its start progress in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.workers.worker import STARTING
from vllama_protos.v1 import fleet_pb2, worker_pb2

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from vllama_balancer.workers.worker import Worker

PHASES = {
    worker_pb2.START_PHASE_RESOLVE: "reading the configuration",
    worker_pb2.START_PHASE_DOWNLOAD: "downloading weights",
    worker_pb2.START_PHASE_LOAD: "loading weights",
    worker_pb2.START_PHASE_COMPILE: "compiling",
    worker_pb2.START_PHASE_WARM_UP: "warming up",
}
FIRST_PHASE = "starting its process"
"""The phase before a worker can report one."""


def status_of(worker: Worker) -> fleet_pb2.WorkerStatus:
    """Returns the status of a worker."""
    report = _first_report(worker) if worker.is_coming_up else worker.report
    status = fleet_pb2.WorkerStatus(
        name=worker.name,
        address=worker.address,
        description=worker.description,
        report=report,
        available=not worker.unavailable,
        reason=_reason(worker, report),
        leases=worker.lease_count,
        restarts=worker.process.restarts,
        pid=worker.process.pid,
        deaths=worker.process.deaths.count,
        last_death=worker.process.deaths.reason,
    )
    _set(status.retry_in, _retry_in_seconds(worker))
    _set(status.time_to_first_token_p50, worker.ttft_window.quantile(0.5))
    _set(status.time_to_first_token_p99, worker.ttft_window.quantile(0.99))
    return status


def start_progress(report: worker_pb2.WorkerReport) -> str:
    """Returns phase, share and duration of a start: "loading weights, 42 %, 12 s"."""
    parts = [PHASES.get(report.phase, FIRST_PHASE)]
    if report.progress > 0:
        parts.append(f"{report.progress * 100:.0f} %")
    return ", ".join([*parts, f"{report.uptime.ToTimedelta().total_seconds():.0f} s"])


def _set(duration: Duration, seconds: float | None) -> None:
    if seconds is not None:
        duration.FromNanoseconds(int(seconds * 1e9))


def _first_report(worker: Worker) -> worker_pb2.WorkerReport:
    """Returns the report of a process that has not opened its socket yet; the last report was its predecessor's."""
    report = worker_pb2.WorkerReport(worker=worker.name, state=worker_pb2.WORKER_STATE_STARTING)
    report.uptime.FromNanoseconds(int(worker.age_seconds * 1e9))
    return report


def _reason(worker: Worker, report: worker_pb2.WorkerReport | None) -> str:
    if worker.unavailable == STARTING and report is not None:
        return f"{worker.unavailable}: {start_progress(report)}"
    return worker.unavailable


def _retry_in_seconds(worker: Worker) -> float | None:
    if worker.process.state is ProcessState.RESTARTING:
        return worker.process.retry_in_seconds
    return worker.breaker.retry_in_seconds if worker.is_connected else None
