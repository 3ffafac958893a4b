"""Real worker processes with the simulated engine, and the signals that befall them."""

import asyncio
import contextlib
import hashlib
import signal
import sys
from asyncio.subprocess import DEVNULL

import pytest

from tests.balancer.conftest import QUICK_HEALTH
from tests.balancer.scripted_worker import eventually
from vllama_balancer.fleet.events import Added
from vllama_balancer.gateway import Call
from vllama_balancer.workers.breaker import HealthSettings
from vllama_protos.v1 import generation_pb2

pytestmark = pytest.mark.slow

TOKENS = 60


class Processes:
    """Worker processes of one fleet."""

    def __init__(self, fleet, directory):
        self.fleet = fleet
        self.directory = directory
        self.running = {}

    async def start(self, name, *arguments):
        """Starts a worker and adds it to the pool."""
        address = f"unix:{self.directory}/{name}.sock"
        command = [sys.executable, "-m", "vllama_server", "m", "--engine", "fake", "--served-name", "m:latest"]
        command += ["--name", name, "--listen", address, *arguments]
        self.running[name] = await asyncio.create_subprocess_exec(*command, stderr=DEVNULL)
        if self.fleet.pool.find(name) is None:
            self.fleet.pool.apply(Added(name, address, ("m:latest",), self.running[name].pid))

    def busiest(self):
        """The name of the worker with the most streams."""
        return max(self.fleet.pool.workers(), key=lambda worker: worker.lease_count).name

    async def decoding(self, count):
        """Waits until so many streams have their first token."""
        await eventually(lambda: self.fleet.leases == count)
        await eventually(
            lambda: all(lease.produced for worker in self.fleet.pool.workers() for lease in worker.incarnation.leases)
        )


@contextlib.asynccontextmanager
async def processes_of(fleet, directory):
    """The means to start processes for a fleet; they end with the context."""
    made = Processes(fleet, directory)
    try:
        yield made
    finally:
        for process in made.running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@pytest.fixture
async def processes(make_fleet, tmp_path):
    """A fleet without workers yet, and the means to start processes for it."""
    fleet = await make_fleet(0, policy="expected-completion", health=QUICK_HEALTH)
    async with processes_of(fleet, tmp_path) as made:
        yield made


def undisturbed(prompt):
    """What the simulated engine says to a prompt."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:4]
    return "".join(f" {digest}.{i}" for i in range(TOKENS))


async def answers(fleet, count):
    """Asks many things at once; returns the wrong answers, and how often streams moved."""
    prompts = [f"question {i}" for i in range(count)]
    replies = await asyncio.gather(*(fleet.generate(prompt, max_tokens=TOKENS) for prompt in prompts))
    wrong = [reply.text for prompt, reply in zip(prompts, replies, strict=True) if reply.text != undisturbed(prompt)]
    return wrong, sum(reply.finished.migrations for reply in replies)


async def start_two(processes, *arguments):
    """Two workers, ready."""
    for name in ("p0", "p1"):
        await processes.start(name, *arguments)
    await processes.fleet.all_available()


async def test_a_killed_workers_streams_continue_exactly(processes):
    """SIGKILL in mid-decode: every text is the undisturbed one."""
    await start_two(processes)
    task = asyncio.create_task(answers(processes.fleet, 12))
    await processes.decoding(12)
    processes.running[processes.busiest()].kill()
    wrong, moved = await task
    assert wrong == []
    assert moved >= 6


async def test_a_workers_death_in_prefill_is_not_seen(processes):
    """SIGKILL while prompts are computed."""
    await start_two(processes, "--engine-arg", "prefill_tokens_per_second=10")
    task = asyncio.create_task(answers(processes.fleet, 6))
    await eventually(lambda: processes.fleet.leases == 6)
    processes.running[processes.busiest()].kill()
    wrong, _ = await task
    assert wrong == []


async def test_a_terminated_worker_ends_its_streams_itself(processes):
    """SIGTERM: what runs is finished there, what comes goes elsewhere."""
    await start_two(processes)
    task = asyncio.create_task(answers(processes.fleet, 8))
    await processes.decoding(8)
    leaving = processes.busiest()
    processes.running[leaving].terminate()
    late = await answers(processes.fleet, 4)
    wrong, moved = await task
    assert (wrong, moved, late[0]) == ([], 0, [])
    async with asyncio.timeout(10):
        assert await processes.running[leaving].wait() == 0


async def test_a_stopped_worker_repeats_nothing_when_it_goes_on(processes):
    """SIGSTOP, then SIGCONT: its streams have moved, and its late tokens are dropped."""
    await start_two(processes)
    task = asyncio.create_task(answers(processes.fleet, 8))
    await processes.decoding(8)
    frozen = processes.running[processes.busiest()]
    frozen.send_signal(signal.SIGSTOP)
    wrong, moved = await task
    frozen.send_signal(signal.SIGCONT)
    assert wrong == []
    assert moved >= 4
    await processes.fleet.all_available()


async def test_a_worker_restarted_at_its_address_serves_again(processes):
    """A new boot id: its prefix index starts empty."""
    await start_two(processes)
    await answers(processes.fleet, 4)
    process = processes.running["p0"]
    boot_id = processes.fleet.pool.find("p0").incarnation.boot_id
    process.kill()
    await process.wait()
    await processes.start("p0")
    await eventually(lambda: processes.fleet.pool.find("p0").incarnation.boot_id != boot_id)
    await processes.fleet.all_available()
    assert (await answers(processes.fleet, 8))[0] == []


async def test_a_stream_that_breaks_after_its_last_token_is_finished(processes):
    """The next worker has nothing to add but the end."""
    await start_two(processes)
    ids = []
    async with contextlib.aclosing(
        processes.fleet.dispatcher.generate(
            generation_pb2.GenerateRequest(
                model="m", prompt="x", sampling=generation_pb2.Sampling(max_tokens=5), return_prompt_token_ids=True
            ),
            Call("me"),
        )
    ) as events:
        async for event in events:
            ids += event.delta.token_ids
    resumed = await processes.fleet.generate("x", max_tokens=5, resume_token_ids=ids)
    assert resumed.text == ""
    assert resumed.finished.reason == generation_pb2.FINISH_REASON_LENGTH
    assert resumed.finished.usage.completion_tokens == 5


async def test_slow_steps_are_no_hang(make_fleet, tmp_path):
    """Two seconds without a token, again and again: as on a processor that computes long prompts."""
    fleet = await make_fleet(0, policy="expected-completion", health=HealthSettings())
    async with processes_of(fleet, tmp_path) as processes:
        await start_two(processes, "--engine-arg", "step_seconds=2")
        prompts = [f"question {i}" for i in range(6)]
        replies = await asyncio.gather(*(fleet.generate(prompt, max_tokens=4) for prompt in prompts))
        assert [len(reply.token_ids) for reply in replies] == [4] * 6
        assert [reply.finished.migrations for reply in replies] == [0] * 6
        assert [fleet.value("vllama_worker_ejections_total", worker=name) for name in ("p0", "p1")] == [0, 0]


async def test_the_prefix_index_is_corrected_by_the_workers_cache(processes):
    """The second turn of a conversation goes where the first was, and is cached there."""
    await start_two(processes)
    fleet = processes.fleet
    text = "a long beginning " * 60
    first = await fleet.generate(text)
    second = await fleet.generate(text + "and more of it " * 20)
    assert second.started[0].worker == first.started[0].worker
    assert second.started[0].cached_prompt_tokens > 200
    # The index holds whole blocks, so the last part of the common beginning is not in it.
    assert fleet.value("vllama_cached_tokens_predicted_total") > 150
    assert fleet.value("vllama_cached_tokens_delivered_total") > 200
