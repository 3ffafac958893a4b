"""Workers that die, hang or leave while they serve: no request fails, none is cut, none is wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import pytest

from tests.faults.load import MODEL, REROUTE_SECONDS, Load, Outcome
from tests.faults.recovery import read_recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.end_to_end.fleet_process import FleetProcess
    from tests.faults.conftest import Matrix
    from vllama_protos.v1 import fleet_pb2

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


async def busiest(fleet: FleetProcess, *, prefilling: bool = False) -> fleet_pb2.WorkerStatus:
    """Waits for a worker with streams, and returns the one with the most."""
    while True:
        workers = [worker for worker in await asyncio.to_thread(fleet.workers) if worker.available]
        busy = [worker for worker in workers if not prefilling or worker.report.queued_prompt_tokens]
        best = max(busy, key=lambda worker: worker.leases, default=None)
        if best is not None and best.leases:
            return best
        await asyncio.sleep(0.01)


async def recovered(fleet: FleetProcess, count: int) -> None:
    """Waits until so many workers are available again."""
    await asyncio.to_thread(fleet.wait_ready, count, 60)


async def test_kill_during_prefill(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """1: SIGKILL of a worker while its requests prefill."""
    running = fleet()
    load = Load(running.target, tokens=8, prompt_tokens=6000)

    async def kill() -> None:
        await load.reached(0.2)
        victim = await busiest(running, prefilling=True)
        os.kill(victim.pid, signal.SIGKILL)

    outcome = await load.run(kill)
    outcome.recovery = await read_recovery(running.url)
    matrix.add("1 SIGKILL during prefill", outcome)
    assert outcome.clean, outcome
    assert outcome.recovery.reroute_seconds <= REROUTE_SECONDS
    await recovered(running, 4)


@pytest.mark.quick
async def test_kill_during_decode(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """2: SIGKILL of a worker in the middle of 200-token streams; the text is exact."""
    running = fleet()
    load = Load(running.target, tokens=200)

    async def kill() -> None:
        for share in (0.2, 0.5):
            await load.reached(share)
            os.kill((await busiest(running)).pid, signal.SIGKILL)

    outcome = await load.run(kill)
    outcome.recovery = await read_recovery(running.url)
    matrix.add("2 SIGKILL during decode, twice", outcome)
    assert outcome.clean, outcome
    assert outcome.recovery.reroute_seconds <= REROUTE_SECONDS
    assert outcome.migrated > 0
    await recovered(running, 4)


async def test_worker_crashes_by_itself(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """3: the engine dies under its worker, again and again, after so many tokens."""
    running = fleet("--engine-arg", "0.crash_after_tokens=3000")
    load = Load(running.target)
    outcome = await load.run()
    outcome.recovery = await read_recovery(running.url)
    matrix.add("3 engine of one worker dies every 3000 tokens", outcome)
    assert outcome.clean, outcome
    assert outcome.recovery.reroute_seconds <= REROUTE_SECONDS


@pytest.mark.quick
async def test_terminated_worker(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """5: SIGTERM of a worker: its streams finish or move, and nothing new goes there."""
    running = fleet()
    load = Load(running.target)

    async def terminate() -> None:
        await load.reached(0.3)
        os.kill((await busiest(running)).pid, signal.SIGTERM)

    outcome = await load.run(terminate)
    outcome.recovery = await read_recovery(running.url)
    matrix.add("5 SIGTERM of a worker", outcome)
    assert outcome.clean, outcome
    assert outcome.recovery.reroute_seconds <= REROUTE_SECONDS


async def test_stopped_and_continued_worker(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """6: SIGSTOP hangs a worker, SIGCONT brings it back: no text comes twice."""
    running = fleet()
    load = Load(running.target)

    async def freeze() -> None:
        await load.reached(0.2)
        victim = await busiest(running)
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            await load.reached(0.9)
        finally:
            os.kill(victim.pid, signal.SIGCONT)

    outcome = await load.run(freeze)
    outcome.recovery = await read_recovery(running.url)
    matrix.add("6 SIGSTOP, then SIGCONT", outcome)
    assert outcome.clean, outcome
    assert outcome.recovery.reroute_seconds <= REROUTE_SECONDS


async def test_worker_comes_back_at_its_address(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """15: a worker dies, is started again at the same address, and serves again."""
    running = fleet("--engine-arg", "speed=1")
    load = Load(running.target)
    victims: list[fleet_pb2.WorkerStatus] = []

    async def kill() -> None:
        await load.reached(0.1)
        victims.append(await busiest(running))
        os.kill(victims[0].pid, signal.SIGKILL)

    outcome = await load.run(kill)
    outcome.recovery = await read_recovery(running.url)
    matrix.add("15 worker restarted at the same address", outcome)
    assert outcome.clean, outcome
    assert outcome.recovery.reroute_seconds <= REROUTE_SECONDS
    await recovered(running, 4)
    (again,) = [worker for worker in running.workers() if worker.name == victims[0].name]
    assert again.address == victims[0].address
    assert again.pid != victims[0].pid
    assert again.restarts == 1
    second = await Load(running.target, requests=10, first=10_000).run()
    assert second.clean
    assert second.workers[again.name] > 0


async def test_all_workers_gone(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """7: with no worker left for ten seconds, requests wait to their deadline; those with time are served."""
    running = fleet("--engine-arg", "start_seconds=9")
    begun = time.monotonic()
    for worker in running.workers():
        os.kill(worker.pid, signal.SIGKILL)
    hurried = Load(running.target, requests=1, timeout_seconds=2)
    patient = Load(running.target, requests=1, first=100)
    refused, served, hurried_by_http, patient_by_http = await asyncio.gather(
        hurried.run(), patient.run(), all_by_http(running.url, wait_seconds=2), all_by_http(running.url)
    )
    gone = time.monotonic() - begun
    matrix.add("7 all workers gone, deadline 2 s", refused)
    matrix.add("7 all workers gone, HTTP, deadline 2 s", *summary(hurried_by_http))
    matrix.add("7 all workers gone, deadline 60 s", served)
    matrix.add("7 all workers gone, HTTP, no deadline", *summary(patient_by_http))
    assert gone >= 10
    assert set(refused.failed) <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
    assert sum(refused.failed.values()) == 8
    assert refused.seconds < 5
    assert [(reply.status, bool(reply.retry_after)) for reply in hurried_by_http] == [(503, True)] * 8
    assert all(2 <= reply.seconds < 5 for reply in hurried_by_http)
    assert served.clean, served
    assert [reply.status for reply in patient_by_http] == [200] * 8


class HttpReply(NamedTuple):
    """What came of a request by HTTP."""

    status: int
    retry_after: str
    seconds: float


async def all_by_http(url: str, wait_seconds: int | None = None) -> list[HttpReply]:
    """Asks for eight completions at once, each to wait for so long."""
    headers = {} if wait_seconds is None else {"Prefer": f"wait={wait_seconds}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        return await asyncio.gather(*(by_http(session, url) for _ in range(8)))


async def by_http(session: aiohttp.ClientSession, url: str) -> HttpReply:
    """Asks for a completion."""
    body = {"model": MODEL, "prompt": "hello", "stream": False, "options": {"num_predict": 3}}
    begun = time.monotonic()
    async with session.post(f"{url}/api/generate", json=body) as response:
        await response.read()
        return HttpReply(response.status, response.headers.get("Retry-After", ""), time.monotonic() - begun)


def summary(replies: Sequence[HttpReply]) -> tuple[Outcome, str]:
    """Makes a row of replies, and a remark of their statuses."""
    statuses = Counter(reply.status for reply in replies)
    outcome = Outcome(complete=statuses[200], seconds=max(reply.seconds for reply in replies))
    outcome.failed.update(str(reply.status) for reply in replies if reply.status != 200)
    return outcome, ", ".join(f"{count} answered {status}" for status, count in statuses.items())
