"""Tokens per second of one, two and eight simulated workers behind one balancer, with steps of a realistic length."""

from __future__ import annotations

import time
from collections import Counter
from operator import sub
from typing import TYPE_CHECKING

from vllama_benchmarks.relay.lean_client import drive
from vllama_benchmarks.relay.processes import fleet

if TYPE_CHECKING:
    import argparse

    from vllama_benchmarks.relay.lean_client import Answer

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
                before, client = running.cpu_seconds(), time.process_time()
                answers = drive(running.http_port, STREAMS, TOKENS, workers, f"{workers} workers")
                costs = [*map(sub, running.cpu_seconds(), before), time.process_time() - client]
            assert all(answer.check() for answer in answers)
            speeds[workers] = steady_tokens_per_second(answers, workers)
            balancer, all_workers, own = (1e6 * cost / (STREAMS * TOKENS * workers) for cost in costs)
            print(
                f"{workers} workers, {STREAMS} streams: {speeds[workers]:,.0f} tokens/s;"
                f" us/token: balancer {balancer:.0f}, workers {all_workers:.0f}, client {own:.0f}",
                flush=True,
            )
        print(f"two against one {speeds[2] / speeds[1]:.2f}, eight against one {speeds[8] / speeds[1]:.2f}", flush=True)


def steady_tokens_per_second(answers: list[Answer], rounds: int) -> float:
    """Returns the speed while every stream runs: from the last one's first token to the first one's last reply.

    A reply that crosses an end of that time counts with its share.
    """
    begin = sorted(answer.first_at for answer in answers)[STREAMS - 1]
    replies: Counter[str] = Counter()
    end = begin
    for answer in answers:
        replies[answer.prompt.removesuffix(" again" * answer.prompt.count(" again"))] += 1
        if max(replies.values()) == rounds:
            end = answer.ended_at
            break
    tokens = 0.0
    for answer in answers:
        inside = min(answer.ended_at, end) - max(answer.first_at, begin)
        tokens += TOKENS * max(0.0, inside) / (answer.ended_at - answer.first_at)
    return tokens / (end - begin)
