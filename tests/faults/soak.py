"""A soak: a paced mix of requests, some cancelled, and workers killed under it; then nothing may be left over.

`python -m tests.faults.soak --seconds 600` starts a fleet of simulated workers, keeps it lightly busy, and writes what
the balancer's memory, descriptors and tasks did: a CSV file and a plot. The fault matrix runs the same mix unpaced.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import grpc
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.fleet_process import FleetProcess
from tests.faults.line_plot import Line, line_plot
from tests.faults.load import MODEL, Outcome, prompt_of, request_of
from tests.faults.stream_check import StreamCheck
from vllama_protos.v1 import generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_SECONDS = 3600
MOST_REQUESTS_PER_SECOND = 200
SAMPLE_SECONDS = 1.0
SETTLING_SECONDS = 10.0
WARM_UP_REQUESTS = 200
"""Requests after which caches are filled and growth means a leak."""
GAUGES = ("streams", "queue", "leases", "in_flight", "waiting", "prompt_tokens")
"""What the names of gauges contain that must come back to zero."""
OWN_REQUEST = "vllama_http_requests_in_flight"
"""Counts the scrape that reads it."""


@dataclass
class Soak:
    """A seeded mix: short and long prompts and answers, three of ten cancelled somewhere on the way."""

    stub: generation_pb2_grpc.GenerationStub
    interval_seconds: float = 0.0
    """From the beginning of one request of a client to that of the next; 0: no pause."""
    outcome: Outcome = field(default_factory=Outcome)
    delivered: int = 0
    """Tokens that reached clients which stayed to the end."""
    counted: int = 0
    """Tokens that `finished` counted for them."""
    cancelled: int = 0
    done: int = 0

    async def client(self, numbers: range) -> None:
        """Sends its requests one after the other, in step with the clock as far as they allow."""
        due = time.monotonic()
        for number in numbers:
            await self.one(number, random.Random(number))
            self.done += 1
            due += self.interval_seconds
            await asyncio.sleep(max(due - time.monotonic(), 0.0))

    async def clients(self, count: int, requests: int) -> None:
        """Shares so many requests between so many clients."""
        share = -(-requests // count)
        await asyncio.gather(*(self.client(range(n * share, min((n + 1) * share, requests))) for n in range(count)))

    async def one(self, number: int, rng: random.Random) -> None:
        """Sends one request, and leaves early when the dice say so."""
        tokens = rng.choice((1, 5, 20, 60))
        prompt = prompt_of(number, rng.choice((8, 64, 1500)))
        leave_after = rng.randrange(tokens + 1) if rng.random() < 0.3 else None
        call = self.stub.Generate(request_of(prompt, tokens), timeout=60)
        check = StreamCheck()
        try:
            async for event in call:
                check.add(event)
                if leave_after is not None and len(check.token_ids) >= leave_after:
                    call.cancel()
                    self.cancelled += 1
                    return
        except grpc.aio.AioRpcError as error:
            self.outcome.failed[error.code().name] += 1
            return
        self.outcome.judge(check, prompt, tokens)
        if check.finished is not None:
            self.delivered += len(check.token_ids)
            self.counted += check.finished.usage.completion_tokens


async def kill_at(fleet: FleetProcess, soak: Soak, counts: Sequence[int]) -> None:
    """Kills a worker whenever so many requests are done; chosen at random."""
    for number, count in enumerate(counts):
        while soak.done < count:
            await asyncio.sleep(0.02)
        workers = [worker for worker in await asyncio.to_thread(fleet.workers) if worker.pid]
        os.kill(random.Random(number).choice(workers).pid, signal.SIGKILL)


class Sample(NamedTuple):
    """What the balancer's process holds at one moment."""

    seconds: float
    memory_bytes: int
    descriptors: int
    tasks: int
    requests_done: int


@dataclass
class Scraper:
    """Reads the balancer's metrics over one connection of its own."""

    session: aiohttp.ClientSession
    url: str

    async def values(self) -> dict[str, float]:
        """Reads every gauge, by name and labels; the scrape itself is not counted."""
        async with self.session.get(f"{self.url}/metrics") as response:
            text = await response.text()
        values = {
            sample.name + (str(sample.labels) if sample.labels else ""): sample.value
            for family in text_string_to_metric_families(text)
            # The time at which a counter was made is written as a gauge.
            if family.type == "gauge" and not family.name.endswith("_created")
            for sample in family.samples
        }
        values[OWN_REQUEST] -= 1
        return values

    async def sample(self, begun: float, done: int) -> Sample:
        """Reads what may not grow."""
        values = await self.values()
        return Sample(
            round(time.monotonic() - begun, 1),
            int(values["process_resident_memory_bytes"]),
            int(values["process_open_fds"]),
            int(values["vllama_tasks"]),
            done,
        )

    async def settled(self) -> dict[str, float]:
        """Waits until every gauge of work in progress is zero; returns the last reading of them."""
        deadline = time.monotonic() + SETTLING_SECONDS
        while True:
            values = await self.values()
            reading = {name: value for name, value in values.items() if any(word in name for word in GAUGES)}
            if not any(reading.values()) or time.monotonic() > deadline:
                return reading
            await asyncio.sleep(0.05)


async def run(arguments: argparse.Namespace, fleet: FleetProcess) -> int:
    """Soaks a running fleet, writes what was seen, and returns 0 when nothing was lost and nothing is left."""
    requests = int(arguments.seconds * arguments.requests_per_second)
    interval_seconds = arguments.clients / arguments.requests_per_second
    async with grpc.aio.insecure_channel(fleet.target) as channel, aiohttp.ClientSession() as session:
        scraper = Scraper(session, fleet.url)
        stub = generation_pb2_grpc.GenerationStub(channel)
        await Soak(stub).client(range(requests, requests + WARM_UP_REQUESTS))
        soak, samples, begun = Soak(stub, interval_seconds), [], time.monotonic()
        kills = [requests * (number + 1) // (arguments.kills + 2) for number in range(arguments.kills)]
        work = asyncio.gather(soak.clients(arguments.clients, requests), kill_at(fleet, soak, kills))
        while not work.done():
            samples.append(await scraper.sample(begun, soak.done))
            await asyncio.wait({work}, timeout=SAMPLE_SECONDS)
        await work
        await asyncio.to_thread(fleet.wait_ready, arguments.workers, 60)
        left = await scraper.settled()
        samples.append(await scraper.sample(begun, soak.done))
    write(arguments.out, samples)
    print(summary(soak, samples, left))
    return 0 if soak.outcome.clean and soak.delivered == soak.counted and not any(left.values()) else 1


def write(directory: Path, samples: Sequence[Sample]) -> None:
    """Writes soak.csv and soak.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "soak.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Sample._fields)
        writer.writerows(samples)
    seconds = [sample.seconds for sample in samples]
    lines = [
        Line("memory of the balancer, MiB", [sample.memory_bytes / (1 << 20) for sample in samples]),
        Line("open descriptors", [sample.descriptors for sample in samples]),
        Line("tasks of the event loop", [sample.tasks for sample in samples]),
        Line("requests done", [sample.requests_done for sample in samples]),
    ]
    (directory / "soak.svg").write_text(line_plot("Soak", "seconds", seconds, lines), encoding="utf-8")


def summary(soak: Soak, samples: Sequence[Sample], left: dict[str, float]) -> str:
    """Words the result for people."""
    first, last, outcome = samples[0], samples[-1], soak.outcome
    peak = max(sample.memory_bytes for sample in samples)
    return "\n".join(
        (
            f"requests      {soak.done} in {last.seconds:.0f} s: {outcome.complete} whole, {soak.cancelled} cancelled "
            f"by their clients, {sum(outcome.failed.values())} failed, {outcome.wrong} wrong, {outcome.migrated} moved",
            f"tokens        {soak.delivered} delivered, {soak.counted} counted",
            f"memory        {first.memory_bytes / 2**20:.1f} MiB at the start, {last.memory_bytes / 2**20:.1f} at the "
            f"end, {peak / 2**20:.1f} at most",
            f"descriptors   {first.descriptors} at the start, {last.descriptors} at the end",
            f"tasks         {first.tasks} at the start, {last.tasks} at the end",
            f"gauges left   {({name: value for name, value in left.items() if value}) or 'none'}",
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a soak of at most an hour."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long (default 600, at most 3600)")
    parser.add_argument("--requests-per-second", type=float, default=8, help="pace of all clients (default 8)")
    parser.add_argument("--clients", type=int, default=8, help="requests at once, at most (default 8)")
    parser.add_argument("--workers", type=int, default=4, help="simulated workers (default 4)")
    parser.add_argument("--kills", type=int, default=5, help="workers killed on the way (default 5)")
    parser.add_argument("--out", type=Path, default=Path("soak"), help="directory for soak.csv and soak.svg")
    arguments = parser.parse_args(argv)
    if not 0 < arguments.seconds <= LONGEST_SECONDS:
        parser.error(f"--seconds must be above 0 and at most {LONGEST_SECONDS}")
    if not 0 < arguments.requests_per_second <= MOST_REQUESTS_PER_SECOND:
        parser.error(f"--requests-per-second must be above 0 and at most {MOST_REQUESTS_PER_SECOND}")
    with tempfile.TemporaryDirectory() as logs:
        usual = ["--engine", "fake", "--max-model-len", "65536", "--workers", str(arguments.workers)]
        fleet = FleetProcess([MODEL, *usual], Path(logs) / "fleet.log")
        fleet.start()
        try:
            fleet.wait_ready(arguments.workers, 120)
            return asyncio.run(run(arguments, fleet))
        finally:
            fleet.stop()


if __name__ == "__main__":
    sys.exit(main())
