"""Reports of engine processes: they arrive in order, and never block the process."""

from __future__ import annotations

import logging
import queue
from typing import TYPE_CHECKING

import pytest

from vllama_protos.v1.worker_pb2 import START_PHASE_COMPILE, START_PHASE_LOAD, START_PHASE_RESOLVE
from vllama_server.vllm_adapter.child_plugin import LONGEST_TEXT, ReportHandler
from vllama_server.vllm_adapter.child_reports import KEPT_FAILURES, Report, ReportInbox, StartProgress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_SECONDS = 10


class Received:
    """An inbox whose reports a test waits for."""

    def __init__(self, directory: Path) -> None:
        self.reports: queue.Queue[Report] = queue.Queue()
        self.inbox = ReportInbox(directory, self.reports.put)
        self.logger = logging.Logger("child")
        self.logger.addHandler(ReportHandler(str(self.inbox.path)))


@pytest.fixture
def received(tmp_path: Path) -> Iterator[Received]:
    """An inbox and a logger that reports to it."""
    received = Received(tmp_path)
    yield received
    for handler in received.logger.handlers:
        handler.close()
    received.inbox.close()


def test_an_exception_arrives_with_its_type_and_traceback(received: Received) -> None:
    """The exception object itself never leaves its process."""
    try:
        raise ValueError("No available memory for the cache blocks.")
    except ValueError:
        received.logger.exception("EngineCore failed to start.")
    report = received.reports.get(timeout=WAIT_SECONDS)
    assert (report.error_type, report.error) == ("ValueError", "No available memory for the cache blocks.")
    assert "Traceback" in report.traceback
    assert received.inbox.failures() == [report]


def test_progress_arrives_and_is_no_failure(received: Received) -> None:
    """Lines of level INFO are for progress."""
    received.logger.info("Loading weights took %.2f seconds", 1.5)
    assert received.reports.get(timeout=WAIT_SECONDS).message == "Loading weights took 1.50 seconds"
    assert received.inbox.failures() == []


def test_the_first_failures_are_kept(received: Received) -> None:
    """Later ones are echoes: they push nothing out."""
    for number in range(KEPT_FAILURES + 5):
        received.logger.error("failure %d", number)
        received.reports.get(timeout=WAIT_SECONDS)
    assert [report.message for report in received.inbox.failures()][:2] == ["failure 0", "failure 1"]
    assert len(received.inbox.failures()) == KEPT_FAILURES


def test_a_message_of_any_length_fits(received: Received) -> None:
    """Cut to what a datagram holds."""
    received.logger.error("x" * (10 * LONGEST_TEXT))
    assert len(received.reports.get(timeout=WAIT_SECONDS).message) == LONGEST_TEXT


def test_a_worker_that_is_gone_is_no_trouble(received: Received) -> None:
    """The process logs on."""
    received.inbox.close()
    received.logger.error("unread")
    received.inbox.close()


def test_progress_only_advances() -> None:
    """Several processes log at once, in any order."""
    reported: list[tuple[int, float]] = []
    progress = StartProgress(lambda phase, fraction: reported.append((phase, fraction)))
    progress.reach(START_PHASE_RESOLVE)
    progress.read("Loading weights took 1.2 seconds")
    progress.read("Starting to load model /m...")
    progress.read("something else")
    progress.read("GPU KV cache size: 11,648 tokens")
    assert reported == [(START_PHASE_RESOLVE, 0.0), (START_PHASE_LOAD, 0.9), (START_PHASE_COMPILE, 0.8)]


def test_the_exception_that_ends_the_engine_is_its_own_report(received: Received) -> None:
    """Errors of single requests before it, however many, are not taken for it."""
    assert received.inbox.fatal() is None
    for number in range(KEPT_FAILURES + 5):
        received.logger.error("request failed", exc_info=ValueError(f"bad grammar {number}"))
        received.reports.get(timeout=WAIT_SECONDS)
    received.logger.error("EngineCore encountered a fatal error.", exc_info=RuntimeError("out of memory"))
    received.reports.get(timeout=WAIT_SECONDS)
    fatal = received.inbox.fatal()
    assert fatal is not None
    assert (fatal.error_type, fatal.error) == ("RuntimeError", "out of memory")
