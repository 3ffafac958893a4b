"""The balancer's resident memory: at rest, with 50 streams for a while, and with 1,000 idle connections."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vllama_benchmarks.relay.lean_client import Connection, drive
from vllama_benchmarks.relay.processes import fleet

if TYPE_CHECKING:
    import argparse

STREAMS = 50
TOKENS = 400
IDLE_CONNECTIONS = 1000
ENGINE = ("step_seconds=0.05", "step_seconds_per_stream=0")
"""Slow enough to run for a long time beside other work."""
MEBIBYTE = 1 << 20


def run(options: argparse.Namespace) -> None:
    """Target 6."""
    with fleet(1, ENGINE) as running:
        print(f"resident at rest {running.resident_bytes() / MEBIBYTE:.1f} MiB", flush=True)
        began, number = time.monotonic(), 0
        while time.monotonic() - began < options.seconds:
            answers = drive(running.http_port, STREAMS, TOKENS, 1, f"memory {number}")
            assert all(answer.check() for answer in answers)
            number += 1
            elapsed, resident = time.monotonic() - began, running.resident_bytes() / MEBIBYTE
            print(f"after {elapsed:5.0f} s with {STREAMS} streams {resident:.1f} MiB", flush=True)
        before = running.resident_bytes()
        connections = [Connection(running.http_port) for _ in range(IDLE_CONNECTIONS)]
        for index, connection in enumerate(connections):
            connection.ask(f"idle {index}", 1)
            connection.wait().check()
        after = running.resident_bytes()
        growth = f"{before / MEBIBYTE:.1f} MiB -> {after / MEBIBYTE:.1f} MiB"
        print(f"{IDLE_CONNECTIONS} idle keep-alive connections: {growth}", flush=True)
        for connection in connections:
            connection.close()
