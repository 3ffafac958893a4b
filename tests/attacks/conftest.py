"""The table of attacks: what each of them did to the others."""

from __future__ import annotations

import pytest

ROWS = pytest.StashKey["list[str]"]()
HEAD = (
    f"{'attack':<28} {'innocents':>9} {'failed':>6} {'p99 beside':>10} {'ordinary':>8} {'attack s':>8} "
    f"{'callback s':>10} {'balancer MiB':>12} {'worker MiB':>10} {'recovery s':>10}  verdict"
)


def pytest_configure(config: pytest.Config) -> None:
    """Makes room for the table."""
    config.stash[ROWS] = []


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> list[str]:
    """The rows of the table that is printed at the end."""
    return request.config.stash[ROWS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the table."""
    if config.stash[ROWS]:
        terminalreporter.section("attacks")
        for line in (HEAD, *config.stash[ROWS]):
            terminalreporter.line(line)
