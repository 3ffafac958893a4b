"""Skipped tests that fail a run: a pytest plugin. With --fail-on-skip only reasons in tests/skips.txt are accepted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("skips.txt")


def accepted_reasons(text: str) -> list[re.Pattern[str]]:
    """Reads the list. Raises ValueError for a line without an explanation."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        if not line.partition("\t")[2].strip():
            raise ValueError(f"{LIST.name}: {line!r} needs a tab and why the test may be skipped")
    return [re.compile(line.partition("\t")[0]) for line in lines]


@dataclass(eq=False)  # pytest needs plugins to be hashable
class SkipCheck:
    """Collects skips, and fails the session for those that are not accepted."""

    accepted: list[re.Pattern[str]]
    refused: dict[str, str] = field(default_factory=dict)
    """Reasons by test."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes a skipped test."""
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notes a skipped module."""
        self._note(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fails a run that has passed otherwise."""
        if self.refused and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Names them."""
        if self.refused:
            terminalreporter.section("skipped, and not for a reason in tests/skips.txt", red=True)
        for test, reason in self.refused.items():
            terminalreporter.line(f"{test}: {reason}")

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        # An expected failure is reported as skipped too, with its own attribute.
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(pattern.search(reason) for pattern in self.accepted):
            self.refused[report.nodeid] = reason


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the flag."""
    message = "fail when a test is skipped for a reason that tests/skips.txt does not have"
    parser.addoption("--fail-on-skip", action="store_true", help=message)


def pytest_configure(config: pytest.Config) -> None:
    """Begins to collect, if asked."""
    if config.getoption("--fail-on-skip"):
        config.pluginmanager.register(SkipCheck(accepted_reasons(LIST.read_text())))
