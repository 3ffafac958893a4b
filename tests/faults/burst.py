"""A burst of ten times the capacity: how soon the requests beyond the queue are refused, at both doors.

`python -m tests.faults.burst` starts four simulated workers and a queue as long as they have streams, and sends all
requests at one moment; see `volley.py` for the client.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.end_to_end.fleet_process import FleetProcess
from tests.faults.load import MODEL, request_of
from tests.faults.volley import GrpcDoor, HttpDoor, volley

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.volley import Answer

WORKERS = 4
FACTOR = 10
"""Size of a burst in capacities, places in the queue included."""
PATIENCE_SECONDS = 60.0
"""Long enough for the admitted requests."""


def http_door(tokens: int) -> HttpDoor:
    """Asks as a script does."""
    options = {"num_predict": tokens}
    body = {"model": MODEL, "prompt": "burst", "raw": True, "stream": False, "options": options}
    return HttpDoor("/api/generate", json.dumps(body).encode())


def grpc_door(tokens: int) -> GrpcDoor:
    """Asks as a service does."""
    return GrpcDoor("/vllama.v1.Generation/Generate", request_of("burst", tokens).SerializeToString())


def quantile(ordered: Sequence[float], share: float) -> float:
    """Reads the value below which that share of the values lies."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def summary(name: str, answers: Sequence[Answer], count: int, grown_bytes: int) -> str:
    """Words one burst for people."""
    refused = sorted(answer.seconds * 1000 for answer in answers if answer.is_refusal)
    if not refused:
        return f"{name} {count} requests: none was refused"
    delays = dict(Counter(answer.retry_after for answer in answers if answer.retry_after))
    within = sum(milliseconds <= 50 for milliseconds in refused) / len(refused)
    median, most = quantile(refused, 0.5), quantile(refused, 0.99)
    return (
        f"{name} {count} requests: {len(answers) - len(refused)} let in, {len(refused)} refused after "
        f"p50 {median:.1f} ms, p99 {most:.1f} ms, the last one {refused[-1]:.1f} ms; "
        f"{within:.0%} within 50 ms; Retry-After {delays}; the balancer grew by {grown_bytes / 2**20:.1f} MiB"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs some bursts against a fleet of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.burst", description=__doc__)
    parser.add_argument("--streams", type=int, default=4, help="streams of each of the four workers (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="bursts at each door (default 3)")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of each answer (default 100)")
    parser.add_argument("--fresh", action="store_true", help="open each connection right before its request")
    arguments = parser.parse_args(argv)
    places = WORKERS * arguments.streams
    count = 2 * places * FACTOR
    with tempfile.TemporaryDirectory() as logs:
        flags = ["--engine", "fake", "--workers", str(WORKERS), "--max-streams", str(arguments.streams)]
        fleet = FleetProcess([MODEL, *flags, "--max-queue", str(places)], Path(logs) / "fleet.log")
        fleet.start()
        try:
            fleet.wait_ready(WORKERS, 120)
            doors = (
                ("HTTP", http_door(arguments.tokens), fleet.http_port),
                ("gRPC", grpc_door(arguments.tokens), fleet.grpc_port),
            )
            for name, door, port in doors * arguments.rounds:
                before = _memory_bytes(fleet)
                answers = volley(
                    door, ("127.0.0.1", port), count, is_fresh=arguments.fresh, patience_seconds=PATIENCE_SECONDS
                )
                print(summary(name, answers, count, _memory_bytes(fleet) - before), flush=True)
        finally:
            fleet.stop()
    return 0


def _memory_bytes(fleet: FleetProcess) -> int:
    assert fleet.process is not None
    return int(psutil.Process(fleet.process.pid).memory_info().rss)


if __name__ == "__main__":
    sys.exit(main())
