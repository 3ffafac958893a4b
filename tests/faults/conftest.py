"""Four simulated workers behind the real balancer, and the table of what each fault did.

Columns: requests answered whole and right, failed, truncated, wrong, and moved to another worker in the middle; the
longest time that any stream went without an event; bounds of the time from a worker's last sign until another one had
its requests, and until that one had computed their prompts; and the length of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.fleet_process import FleetProcess
from tests.faults.load import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.load import Outcome

MATRIX = pytest.StashKey["list[str]"]()


@dataclass
class Matrix:
    """Collects one row for each fault."""

    rows: list[str] = field(default_factory=list)

    def add(self, fault: str, outcome: Outcome, remark: str = "") -> None:
        """Adds a row."""
        failed = sum(outcome.failed.values())
        moved = outcome.recovery if outcome.recovery is not None and outcome.recovery.rerouted else None
        reroute = f"<= {moved.reroute_seconds:g}" if moved is not None else "-"
        resume = f"<= {moved.resume_seconds:g}" if moved is not None else "-"
        self.rows.append(
            f"{fault:<44} {outcome.complete:>6} {failed:>6} {outcome.truncated:>5} {outcome.wrong:>5} "
            f"{outcome.migrated:>5} {outcome.slowest_gap_seconds:>7.2f} {reroute:>9} {resume:>8} "
            f"{outcome.seconds:>7.1f}  {remark}"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Makes room for the table."""
    config.stash[MATRIX] = []


@pytest.fixture(scope="session")
def matrix(request: pytest.FixtureRequest) -> Matrix:
    """The table that is printed at the end."""
    return Matrix(request.config.stash[MATRIX])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the table."""
    rows = config.stash[MATRIX]
    if rows:
        terminalreporter.section("fault matrix")
        terminalreporter.line(
            f"{'fault':<44} {'whole':>6} {'failed':>6} {'trunc':>5} {'wrong':>5} {'moved':>5} {'gap s':>7} "
            f"{'reroute s':>9} {'resume s':>8} {'run s':>7}"
        )
        for row in sorted(rows, key=_number):
            terminalreporter.line(row)


def _number(row: str) -> tuple[int, bool]:
    """Orders rows as the matrix is numbered, those on real engines after the others; what has no number comes last."""
    number, _, rest = row.partition(" ")
    return int(number) if number.isdigit() else 99, rest.startswith("real")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Callable[..., FleetProcess]]:
    """Starts fleets of simulated workers, four times as fast as a GPU; ends them all."""
    started: list[FleetProcess] = []

    def start(*arguments: str, workers: int = 4, ready: int | None = None) -> FleetProcess:
        log = tmp_path / f"fleet{len(started)}.log"
        usual = ["--engine", "fake", "--max-model-len", "65536", "--engine-arg", "speed=4", "--workers", str(workers)]
        fleet = FleetProcess([MODEL, *usual, *arguments], log)
        started.append(fleet)
        fleet.start()
        fleet.wait_ready(workers if ready is None else ready, 60)
        return fleet

    yield start
    for fleet in started:
        fleet.stop()
