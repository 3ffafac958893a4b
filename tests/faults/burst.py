"""A burst of ten times the capacity: how soon those are answered for whom there is no room.

`python -m tests.faults.burst` starts four simulated workers of four streams each, a queue of the same size, opens the
connections first, and sends all requests at one moment, so that the time is the balancer's and hardly the client's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from tests.end_to_end.fleet_process import FleetProcess
from tests.faults.load import MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKERS = 4
MOST_REQUESTS = 2000


class Answer(NamedTuple):
    """The head of one reply."""

    status: int
    retry_after: str
    seconds: float


async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, go: asyncio.Event) -> Answer:
    """Sends a request at the signal and reads the head of its reply."""
    await go.wait()
    begun = time.monotonic()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    seconds = time.monotonic() - begun
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    return Answer(int(head.split(" ", 2)[1]), lines.get("retry-after", ""), seconds)


async def burst(fleet: FleetProcess, count: int, tokens: int) -> list[Answer]:
    """Sends so many requests at once."""
    body = json.dumps(
        {"model": MODEL, "prompt": "burst", "raw": True, "stream": False, "options": {"num_predict": tokens}}
    )
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connections = [await asyncio.open_connection("127.0.0.1", fleet.http_port) for _ in range(count)]
    go = asyncio.Event()
    jobs = [asyncio.create_task(one(*connection, (head + body).encode(), go)) for connection in connections]
    await asyncio.sleep(0.2)
    go.set()
    answers = await asyncio.gather(*jobs)
    for _, writer in connections:
        writer.close()
    return answers


def summary(answers: Sequence[Answer], grown_bytes: int) -> str:
    """Words the result for people."""
    refused = sorted(answer.seconds for answer in answers if answer.status == 503)
    share = {name: refused[int(part * (len(refused) - 1))] * 1000 for name, part in (("p50", 0.5), ("p99", 0.99))}
    return (
        f"{len(answers)} requests: {dict(Counter(answer.status for answer in answers))}, refusals after "
        f"p50 {share['p50']:.1f} ms, p99 {share['p99']:.1f} ms, the last one {refused[-1] * 1000:.1f} ms, "
        f"Retry-After {sorted({answer.retry_after for answer in answers if answer.status == 503})}, "
        f"the balancer grew by {grown_bytes / 2**20:.1f} MiB"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs some bursts against a fleet of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.burst", description=__doc__)
    parser.add_argument("--streams", type=int, default=4, help="streams of each of the four workers (default 4)")
    parser.add_argument("--factor", type=int, default=10, help="size of the burst in capacities (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="bursts one after the other (default 3)")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of each answer (default 100)")
    arguments = parser.parse_args(argv)
    streams = WORKERS * arguments.streams
    count = 2 * streams * arguments.factor
    if not 0 < count <= MOST_REQUESTS:
        parser.error(f"a burst of {count} requests is not between 1 and {MOST_REQUESTS}")
    with tempfile.TemporaryDirectory() as logs:
        flags = ["--engine", "fake", "--workers", str(WORKERS), "--max-streams", str(arguments.streams)]
        fleet = FleetProcess([MODEL, *flags, "--max-queue", str(streams)], Path(logs) / "fleet.log")
        fleet.start()
        try:
            fleet.wait_ready(WORKERS, 120)
            assert fleet.process is not None
            process = psutil.Process(fleet.process.pid)
            for _ in range(arguments.rounds):
                before = process.memory_info().rss
                answers = asyncio.run(burst(fleet, count, arguments.tokens))
                print(summary(answers, process.memory_info().rss - before), flush=True)
        finally:
            fleet.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
