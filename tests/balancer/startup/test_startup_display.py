"""The display while models load."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest

from vllama_balancer.fleet.events import Changed, ProcessState
from vllama_balancer.startup.startup_display import StartupDisplay, line_of
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
    ("worker", "text"),
    [
        (running(), "worker-0: starting"),
        (running(state=1, phase=3, progress=0.42), "worker-0: loading weights 42%"),
        (running(state=1, phase=5), "worker-0: warming up"),
        (running(state=2), "worker-0: ready"),
        (running(state=3), "worker-0: draining"),
        (running(state=4, failure="no memory"), "worker-0: failed: no memory"),
        (Shown("worker-0", Changed("worker-0", ProcessState.RESTARTING, "killed")), "worker-0: restarting: killed"),
    ],
)  # fmt: skip
def test_a_state_becomes_words(worker: Shown, text: str) -> None:
    """Phase and percent while it starts, the cause when it fails."""
    assert line_of(worker).text == text


def test_plain_lines_show_only_changes() -> None:
    """Off a terminal each step is one line with its time, and percents do not repeat it."""
    now = [100.0]
    stream, pool = io.StringIO(), Pool([running(state=1, phase=3, progress=0.1)])
    display = StartupDisplay(pool, stream, lambda: now[0])
    display.print_changes()
    now[0] = 103.0
    pool[0] = running(state=1, phase=3, progress=0.6)
    display.print_changes()
    pool[0] = running(state=2)
    display.print_changes()
    assert stream.getvalue() == "worker-0: loading weights 10% (0 s)\nworker-0: ready (3 s)\n"
