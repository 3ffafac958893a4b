"""The display while models load."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass

import pytest

from vllama_balancer.fleet.events import Changed, ProcessState
from vllama_balancer.startup.startup_display import Line, StartupDisplay, line_of
from vllama_protos.v1 import worker_pb2


@dataclass
class Shown:
    """A worker to show."""

    name: str
    process: Changed
    report: worker_pb2.WorkerReport | None = None


class Pool(list):
    """A list of workers."""

    def workers(self) -> list[Shown]:
        """Lists them."""
        return self


def running(**report: object) -> Shown:
    """A worker whose process runs."""
    made = worker_pb2.WorkerReport(**report) if report else None
    return Shown("worker-0", Changed("worker-0", ProcessState.RUNNING), made)


@pytest.mark.parametrize(
    ("worker", "doing", "percent"),
    [
        (running(), "starting", 0),
        (running(state=1, phase=3, progress=0.42), "loading weights", 42),
        (running(state=1, phase=5), "warming up", 0),
        (running(state=2), "ready", 0),
        (running(state=3), "draining", 0),
        (running(state=4, failure="no memory"), "failed: no memory", 0),
        (Shown("worker-0", Changed("worker-0", ProcessState.RESTARTING, "killed")), "restarting: killed", 0),
    ],
)
def test_a_state_becomes_words(worker: Shown, doing: str, percent: int) -> None:
    """Phase and percent while it starts, the cause when it fails."""
    assert line_of(worker) == Line("worker-0", doing, percent)


def test_a_log_gets_each_phase_once(caplog: pytest.LogCaptureFixture) -> None:
    """Off a terminal each phase of a start is one line with its time; what is logged elsewhere is left out."""
    caplog.set_level(logging.INFO)
    now = [100.0]
    stream, pool = io.StringIO(), Pool([running(state=1, phase=3, progress=0.1)])
    display = StartupDisplay(pool, stream, lambda: now[0])
    display.log_changes()
    now[0] = 103.0
    for later in (
        running(state=1, phase=3, progress=0.6),
        running(state=1, phase=5),
        running(state=4, failure="no memory"),
        Shown("worker-0", Changed("worker-0", ProcessState.RESTARTING, "killed")),
        running(state=2),
    ):
        pool[0] = later
        display.log_changes()
    assert caplog.messages == ["worker worker-0: loading weights (0 s)", "worker worker-0: warming up (3 s)"]
    assert stream.getvalue() == ""
