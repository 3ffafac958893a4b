"""Words how far a starting worker has come, for people."""

from __future__ import annotations

from vllama_protos.v1 import worker_pb2

PHASES = {
    worker_pb2.START_PHASE_RESOLVE: "reading the configuration",
    worker_pb2.START_PHASE_DOWNLOAD: "downloading weights",
    worker_pb2.START_PHASE_LOAD: "loading weights",
    worker_pb2.START_PHASE_COMPILE: "compiling",
    worker_pb2.START_PHASE_WARM_UP: "warming up",
}
FIRST_PHASE = "starting its process"
"""What a worker does before it can be asked."""


def start_progress(report: worker_pb2.WorkerReport) -> str:
    """Tells phase, share and time of a start: "loading weights, 42 %, 12 s"."""
    parts = [PHASES.get(report.phase, FIRST_PHASE)]
    if report.progress > 0:
        parts.append(f"{report.progress * 100:.0f} %")
    return ", ".join([*parts, f"{report.uptime.ToTimedelta().total_seconds():.0f} s"])
