"""Tokens per second from the worker to Ollama's JSON, and the CPU time per token."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from vllama_benchmarks.relay.lean_client import drive

if TYPE_CHECKING:
    from vllama_benchmarks.relay.processes import Fleet


class Throughput(NamedTuple):
    """One measurement."""

    tokens_per_second: float
    lines_per_second: float
    tokens_per_line: float
    balancer_us_per_token: float
    worker_us_per_token: float
    client_us_per_token: float
    balancer_us_per_line: float

    @classmethod
    def of(cls, tokens: int, lines: int, elapsed: float, balancer: float, worker: float, client: float) -> Throughput:
        """Returns it from counts, elapsed seconds and the CPU seconds of each process."""
        micro = 1e6 / tokens
        return cls(
            tokens / elapsed,
            lines / elapsed,
            tokens / lines,
            balancer * micro,
            worker * micro,
            client * micro,
            balancer * 1e6 / lines,
        )


def measure(running: Fleet, streams: int, tokens: int, rounds: int, label: str) -> Throughput:
    """Runs the streams at once and checks every text after the clock has stopped."""
    balancer, worker = running.cpu_seconds()
    client, began = time.process_time(), time.monotonic()
    answers = drive(running.http_port, streams, tokens, rounds, label)
    elapsed, client_cpu = time.monotonic() - began, time.process_time() - client
    balancer_now, worker_now = running.cpu_seconds()
    lines = sum(answer.check() for answer in answers)
    return Throughput.of(
        streams * tokens * rounds, lines, elapsed, balancer_now - balancer, worker_now - worker, client_cpu
    )


def show(name: str, found: Throughput) -> str:
    """One line for a terminal."""
    return (
        f"{name:<28} {found.tokens_per_second:9,.0f} tok/s {found.lines_per_second:8,.0f} lines/s"
        f" ({found.tokens_per_line:5.2f} tok/line)  us/token: balancer {found.balancer_us_per_token:6.1f}"
        f"  worker {found.worker_us_per_token:6.1f}  client {found.client_us_per_token:5.1f}"
        f"  balancer us/line {found.balancer_us_per_line:6.1f}"
    )
