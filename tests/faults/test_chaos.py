"""Everything at once: faults in combination under requests of every kind, and nothing of it reaches a client.

A minute by default. CHAOS_SECONDS says how long, CHAOS_SEED which dice; the seed and the counts of what was done and
of what came of it are printed with the fault matrix.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import aiohttp
import grpc
import pytest

from tests.faults.chaos_actions import ACTIONS, ChaosActions
from tests.faults.chaos_requests import KINDS, ChaosClient
from tests.faults.load import Outcome
from tests.faults.soak import Scraper
from tests.faults.standalone import JoiningWorkers
from tests.faults.test_clients_leave import is_busy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.end_to_end.fleet_process import FleetProcess
    from tests.faults.conftest import Matrix

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
SETTLING_SECONDS = 120
"""Longest pause before a worker that died again and again is started once more, and its start."""
pytestmark = [pytest.mark.faults, pytest.mark.quick, pytest.mark.timeout(SECONDS + SETTLING_SECONDS + 240)]

OWN_WORKERS, GUESTS, CLIENTS = 3, ("guest0", "guest1", "guest2"), 20
ENGINE = ("--engine-arg", "accepts_formats=1", "--engine-arg", "speed=1")
WARM_UP_REQUESTS = 10
ALLOWED_GROWTH = 8
"""Of descriptors and of tasks: connections that were open at one of the two moments only."""


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[JoiningWorkers]:
    """Workers that join; none yet."""
    made = JoiningWorkers(tmp_path, GUESTS, ENGINE)
    yield made
    made.stop()


async def test_chaos(fleet: Callable[..., FleetProcess], guests: JoiningWorkers, matrix: Matrix) -> None:
    """28: every answer is whole, no innocent request is refused, and everything is given back."""
    token = ("--join-token-file", str(guests.token_file))
    running = await asyncio.to_thread(fleet, *ENGINE, *token, workers=OWN_WORKERS)
    guests.balancer = running.target
    guests.start_missing()
    await asyncio.to_thread(running.wait_ready, OWN_WORKERS + len(GUESTS), 60)
    async with grpc.aio.insecure_channel(running.target) as channel, aiohttp.ClientSession() as session:
        scraper = Scraper(session, running.url)
        clients = [
            ChaosClient(channel, session, running.url, number, Random(f"{SEED}-{number}")) for number in range(CLIENTS)
        ]
        await asyncio.gather(*(warm_up(client) for client in clients))
        await scraper.settled()
        before = await scraper.sample(time.monotonic(), 0)

        actions = ChaosActions(running, guests, channel, Random(f"{SEED}-actions"))
        over, begun = asyncio.Event(), time.monotonic()
        work = asyncio.gather(*(client.run(over) for client in clients))
        try:
            await actions.run(SECONDS)
        finally:
            over.set()
            async with asyncio.timeout(SETTLING_SECONDS + 180):
                await work
        seconds = time.monotonic() - begun
        guests.start_missing()
        problems = [violation for client in clients for violation in client.violations]
        report(matrix, clients, actions, seconds, problems)
        problems += await not_back(running)
        left = await scraper.settled()
        problems += [f"{name} is {value:g}" for name, value in left.items() if value]
        after = await scraper.sample(begun, 0)
    for what in ("descriptors", "tasks"):
        grown = getattr(after, what) - getattr(before, what)
        problems += [f"{grown} more {what}"] if grown > ALLOWED_GROWTH else []
    assert not problems, "\n".join(problems)
    assert_all_sorts(clients, actions)


async def not_back(running: FleetProcess) -> list[str]:
    """Waits until every worker serves and none has anything to do; returns what is not so after all."""
    until = time.monotonic() + SETTLING_SECONDS
    while True:
        statuses = await asyncio.to_thread(running.workers)
        found = [f"{worker.name}: {worker.reason}" for worker in statuses if not worker.available]
        found += [f"{worker.name} is busy: {worker.leases} {worker.report}" for worker in statuses if is_busy(worker)]
        found += [f"{len(statuses)} workers"] if len(statuses) != OWN_WORKERS + len(GUESTS) else []
        if not found or time.monotonic() > until:
            return found
        await asyncio.sleep(0.1)


async def warm_up(client: ChaosClient) -> None:
    """Fills caches and opens connections before anything is compared."""
    for _ in range(WARM_UP_REQUESTS):
        await client.one()


def assert_all_sorts(clients: list[ChaosClient], actions: ChaosActions) -> None:
    """The run has been what it says: every kind of request, streams that moved, and most kinds of harm."""
    assert set(total(client.kinds for client in clients)) == set(KINDS)
    assert sum(count for moves, count in total(client.migrations for client in clients).items() if moves)
    assert len(actions.done) >= min(len(ACTIONS), int(SECONDS / 10))


def total(counters: Iterable[Counter]) -> Counter:
    """Adds counters."""
    return sum(counters, Counter())


def report(
    matrix: Matrix, clients: list[ChaosClient], actions: ChaosActions, seconds: float, problems: list[str]
) -> None:
    """Adds a row with the seed, and prints all counts."""
    outcomes = total(client.outcomes for client in clients)
    migrations = total(client.migrations for client in clients)
    outcome = Outcome(
        complete=outcomes["whole"],
        wrong=outcomes["violation"],
        migrated=sum(count for moves, count in migrations.items() if moves),
        seconds=seconds,
    )
    matrix.add(
        "28 chaos",
        outcome,
        f"seed {SEED}, cancelled {outcomes['cancelled']}, late {outcomes['late']}, {sum(actions.done.values())} faults",
    )
    print(f"chaos, seed {SEED}, {seconds:.0f} s")
    for what, counts in (
        ("outcomes", outcomes),
        ("requests", total(client.kinds for client in clients)),
        ("faults", actions.done),
        ("streams by moves", migrations),
        ("violations", Counter(problem.split("; ")[0][:100] for problem in problems)),
    ):
        print(f"  {what}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
