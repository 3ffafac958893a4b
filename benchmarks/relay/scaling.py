"""Tokens per second of one, two and eight simulated workers behind one balancer, with steps of a realistic length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.relay import throughput
from benchmarks.relay.processes import fleet

if TYPE_CHECKING:
    import argparse

STREAMS = 50
TOKENS = 100
ENGINE = ("step_seconds=0", "step_seconds_per_stream=0.002")
"""A step of 2 ms for each stream of its batch: a worker that is busy computes 500 tokens/s, whatever its share."""


def run(options: argparse.Namespace) -> None:
    """Target 7."""
    for _ in range(options.repeats):
        speeds = {}
        for workers in (1, 2, 8):
            # As many replies of each stream as there are workers, so that all measurements take equally long.
            with fleet(workers, ENGINE) as running:
                found = throughput.measure(running, STREAMS, TOKENS, workers, f"{workers} workers")
            speeds[workers] = found.tokens_per_second
            print(throughput.show(f"{workers} workers, {STREAMS} x {TOKENS}", found), flush=True)
        print(f"two against one {speeds[2] / speeds[1]:.2f}, eight against one {speeds[8] / speeds[1]:.2f}", flush=True)
