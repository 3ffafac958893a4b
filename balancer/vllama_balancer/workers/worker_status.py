"""Writes down one worker as the balancer sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.fleet.events import ProcessState
from vllama_protos.v1 import fleet_pb2

if TYPE_CHECKING:
    from vllama_balancer.workers.worker import Worker


def status_of(worker: Worker) -> fleet_pb2.WorkerStatus:
    """Describes a worker for people and tools."""
    status = fleet_pb2.WorkerStatus(
        name=worker.name,
        address=worker.address,
        description=worker.description,
        report=worker.report,
        available=not worker.unavailable,
        reason=worker.unavailable,
        leases=worker.leases,
        restarts=worker.process.restarts,
        pid=worker.process.pid,
    )
    retry_in = _retry_in_seconds(worker)
    if retry_in is not None:
        status.retry_in.FromNanoseconds(int(retry_in * 1e9))
    return status


def _retry_in_seconds(worker: Worker) -> float | None:
    if worker.process.state is ProcessState.RESTARTING:
        return worker.process.retry_in_seconds
    return worker.breaker.retry_in_seconds if worker.is_connected else None
