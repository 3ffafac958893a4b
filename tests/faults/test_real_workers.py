"""The same faults on real vLLM: what clients get equals the undisturbed run, token for token."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import grpc
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.fleet_process import FleetProcess
from tests.faults.load import Outcome
from tests.faults.recovery import read_recovery
from vllama_protos.v1 import generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.faults.conftest import Matrix
    from vllama_protos.v1 import fleet_pb2

pytestmark = [pytest.mark.faults, pytest.mark.real, pytest.mark.timeout(900)]

MODEL = "smollm2:135m"
STREAMS = 8
TOKENS = 96


TURN = "Tell me a story about the number {}."


def request_of(number: int, turn: str = TURN, tokens: int = TOKENS) -> generation_pb2.GenerateRequest:
    """A greedy chat about one number."""
    message = generation_pb2.Message(role="user", content=turn.format(number))
    return generation_pb2.GenerateRequest(
        model=MODEL,
        chat=generation_pb2.Chat(messages=[message]),
        sampling=generation_pb2.Sampling(temperature=0, max_tokens=tokens, ignore_eos=True),
    )


@dataclass
class Run:
    """Eight streams at once, and what came of them."""

    target: str
    turn: str = TURN
    tokens_each: int = TOKENS
    texts: dict[int, str] = field(default_factory=dict)
    tokens: int = 0
    outcome: Outcome = field(default_factory=Outcome)

    async def all(self, during: Callable[[], Awaitable[None]] | None = None) -> dict[int, str]:
        """Returns the texts by number."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with grpc.aio.insecure_channel(self.target) as channel:
            stub = generation_pb2_grpc.GenerationStub(channel)
            jobs: list[Awaitable[None]] = [self.one(stub, number) for number in range(STREAMS)]
            await asyncio.gather(*jobs, *([during()] if during else []))
        self.outcome.seconds = loop.time() - begun
        return self.texts

    async def one(self, stub: generation_pb2_grpc.GenerationStub, number: int) -> None:
        """Reads one stream to its end."""
        loop = asyncio.get_running_loop()
        text, last = "", loop.time()
        async for event in stub.Generate(request_of(number, self.turn, self.tokens_each), timeout=300):
            now = loop.time()
            self.outcome.slowest_gap_seconds = max(self.outcome.slowest_gap_seconds, now - last)
            last = now
            text += event.delta.text
            self.tokens += len(event.delta.token_ids)
            self.outcome.migrated += bool(event.finished.migrations)
        self.texts[number] = text

    async def reached(self, share: float) -> None:
        """Returns once this share of all tokens has come."""
        while self.tokens < share * STREAMS * self.tokens_each:
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def two_real_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    """Two real workers of their own: they will be killed."""
    log = tmp_path_factory.mktemp("faults") / "fleet.log"
    fleet = FleetProcess([MODEL, "--workers", "2", "--deterministic", "--max-model-len", "1024"], log)
    fleet.start()
    try:
        fleet.wait_ready(2, 300)
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture(scope="module")
def undisturbed(two_real_workers: FleetProcess) -> dict[int, str]:
    """What the streams say when nothing happens to them."""
    return asyncio.run(Run(two_real_workers.target).all())


async def victim_of(fleet: FleetProcess) -> fleet_pb2.WorkerStatus:
    """Waits for a worker with streams."""
    while True:
        workers = await asyncio.to_thread(fleet.workers)
        best = max(workers, key=lambda worker: worker.leases)
        if best.leases:
            return best
        await asyncio.sleep(0.01)


def engine_child(worker: fleet_pb2.WorkerStatus) -> psutil.Process:
    """Finds the process in which the worker's engine runs."""
    children = psutil.Process(worker.pid).children(recursive=True)
    return next(
        child for child in children if "EngineCore" in " ".join(child.cmdline()) or "EngineCore" in child.name()
    )


async def kill_worker(worker: fleet_pb2.WorkerStatus, run: Run) -> None:
    """SIGKILL."""
    os.kill(worker.pid, signal.SIGKILL)


async def kill_engine(worker: fleet_pb2.WorkerStatus, run: Run) -> None:
    """SIGKILL of the engine's process alone."""
    engine_child(worker).kill()


async def terminate(worker: fleet_pb2.WorkerStatus, run: Run) -> None:
    """SIGTERM."""
    os.kill(worker.pid, signal.SIGTERM)


async def freeze(worker: fleet_pb2.WorkerStatus, run: Run) -> None:
    """SIGSTOP of the worker's process, SIGCONT at the end."""
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        await run.reached(0.98)
    finally:
        os.kill(worker.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("name", "share", "fault"),
    [
        ("1 real: SIGKILL before the first token", 0.0, kill_worker),
        ("2 real: SIGKILL during decode", 0.3, kill_worker),
        ("3 real: the engine's process alone dies", 0.3, kill_engine),
        ("5 real: SIGTERM of a worker", 0.3, terminate),
        ("6 real: SIGSTOP, then SIGCONT", 0.3, freeze),
    ],
    ids=["prefill", "decode", "engine", "terminate", "freeze"],
)
async def test_text_equals_the_undisturbed_run(
    two_real_workers: FleetProcess,
    undisturbed: dict[int, str],
    matrix: Matrix,
    name: str,
    share: float,
    fault: Callable[[fleet_pb2.WorkerStatus, Run], Awaitable[None]],
) -> None:
    """Eight greedy streams, one fault: the same eight texts."""
    await asyncio.to_thread(two_real_workers.wait_ready, 2, 180)
    before = await read_recovery(two_real_workers.url)
    run = Run(two_real_workers.target)

    async def during() -> None:
        await run.reached(share)
        await fault(await victim_of(two_real_workers), run)

    texts = await run.all(during)
    run.outcome.recovery = (await read_recovery(two_real_workers.url)).since(before)
    run.outcome.complete = sum(texts[number] == undisturbed[number] for number in undisturbed)
    run.outcome.wrong = STREAMS - run.outcome.complete
    matrix.add(name, run.outcome)
    # The table has the delay, without a bound: the engines leave the balancer little of two cores here.
    assert texts == undisturbed


async def test_cancelled_streams_leave_the_engine(two_real_workers: FleetProcess, matrix: Matrix) -> None:
    """4: clients leave in mid-decode; the engine's slots are free again."""
    await asyncio.to_thread(two_real_workers.wait_ready, 2, 180)
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(two_real_workers.target) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        calls = [stub.Generate(request_of(number), timeout=60) for number in range(STREAMS)]
        for call in calls:
            async for event in call:
                if event.HasField("delta"):
                    break
        begun = loop.time()
        for call in calls:
            call.cancel()
        while any(w.leases or w.report.running for w in await asyncio.to_thread(two_real_workers.workers)):
            assert loop.time() - begun < 10
            await asyncio.sleep(0.02)
    matrix.add("4 real: clients leave in mid-decode", Outcome(seconds=loop.time() - begun), "run s = until idle")


async def counted(fleet: FleetProcess, name: str) -> float:
    """Sums a counter of the balancer over its labels."""
    async with aiohttp.ClientSession() as session, session.get(f"{fleet.url}/metrics") as response:
        text = await response.text()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


async def test_a_busy_fleet_is_not_taken_for_hung(two_real_workers: FleetProcess, matrix: Matrix) -> None:
    """Long prompts keep a processor busy for seconds at a time: no worker is ejected, and no stream moves."""
    await asyncio.to_thread(two_real_workers.wait_ready, 2, 180)
    names = ("vllama_worker_ejections_total", "vllama_migrations_total", "vllama_retries_total")
    before = [await counted(two_real_workers, name) for name in names]
    run = Run(two_real_workers.target, turn="The number {0} again and again. " * 60, tokens_each=24)
    await run.all()
    run.outcome.complete = len(run.texts)
    matrix.add("- real: long prompts, no fault", run.outcome)
    assert [await counted(two_real_workers, name) for name in names] == before
    assert run.tokens == STREAMS * 24
