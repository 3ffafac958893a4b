"""The command line of the simulator: `python -m vllama_benchmarks.simulate [--quick] [--report DIR]`."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllama_balancer.routing.policies import POLICIES, make_policy
from vllama_benchmarks.simulate.archive import Archive
from vllama_benchmarks.simulate.contenders import CONTENDERS, LEAST_REQUEST, SUBJECT
from vllama_benchmarks.simulate.decision_time import FLEETS, measure
from vllama_benchmarks.simulate.grid import FULL, QUICK, Grid, run
from vllama_benchmarks.simulate.report import write
from vllama_benchmarks.simulate.studies import Studies
from vllama_benchmarks.simulate.tables import by_workload, goals, markdown, summary
from vllama_benchmarks.simulate.tuning import tune
from vllama_benchmarks.simulate.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, prints the summary and returns the exit status."""
    arguments = _parser().parse_args(argv)
    start = time.monotonic()

    def progress(line: str) -> None:
        print(f"{time.monotonic() - start:6.0f} s  {line}", file=sys.stderr)

    if arguments.decision_time:
        for workers in FLEETS:
            print(measure(make_policy(SUBJECT), workers))
        return 0
    if arguments.tune:
        for worth, rule in tune(progress=progress)[:10]:
            print(f"{worth:.4f}  match {rule.match}, absolute {rule.absolute}, relative {rule.relative}")
        return 0
    names = [SUBJECT, LEAST_REQUEST, *arguments.policies] if arguments.policies else list(CONTENDERS)
    archive = Archive(arguments.report / "kept") if arguments.report else None
    grid = _grid(arguments)
    results = run(grid, dict.fromkeys(names), progress, arguments.jobs, archive)
    print(markdown([summary(results), by_workload(results), *goals(results, SUBJECT)]), end="")
    if archive is not None:
        studies = Studies(results, grid, archive, progress, arguments.jobs, arguments.quick)
        write(arguments.report, results, SUBJECT, [] if _is_partial(arguments) else studies.sections())
        progress(f"wrote {arguments.report / 'report.html'} and {arguments.report / 'report.md'}")
    return 0


def _is_partial(arguments: argparse.Namespace) -> bool:
    """Returns whether the flags select a part of the comparison; the report then has no further sections."""
    selected = (arguments.workloads, arguments.concurrency, arguments.workers, arguments.seeds, arguments.policies)
    return any(part is not None for part in selected)


def _grid(arguments: argparse.Namespace) -> Grid:
    grid = QUICK if arguments.quick else FULL
    return replace(
        grid,
        workloads=tuple(arguments.workloads or grid.workloads),
        concurrencies=tuple(arguments.concurrency or grid.concurrencies),
        workers=tuple(arguments.workers or grid.workers),
        seeds=tuple(range(arguments.seeds)) if arguments.seeds else grid.seeds,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vllama simulate",
        description="Compares placement policies on simulated fleets, in made-up time.",
        epilog="Example: vllama simulate --quick --workloads chats --report DIR",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a part of the grid: seconds instead of minutes")
    add("--workloads", nargs="+", choices=list(WORKLOADS), metavar="NAME", help=f"of {', '.join(WORKLOADS)}")
    add("--concurrency", nargs="+", type=_positive, metavar="N", help="numbers of clients")
    add("--workers", nargs="+", type=_positive, metavar="N", help="sizes of the fleet")
    add("--seeds", type=_positive, metavar="N", help="runs of each cell")
    choices = [*CONTENDERS, *(name for name in POLICIES if name not in CONTENDERS)]
    add("--policies", nargs="+", choices=choices, metavar="NAME", help=f"of {', '.join(choices)}")
    add("--jobs", type=_positive, default=1, metavar="N", help="processes (default 1)")
    add("--report", type=Path, metavar="DIR", help="writes tables and charts there; goes on where it was interrupted")
    add("--tune", action="store_true", help="searches the cache-aware rule's best thresholds instead")
    add("--decision-time", action="store_true", help="measures what a decision costs on this machine instead")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
