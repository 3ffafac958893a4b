"""Faults one after the other, and the operator's own commands among them: no innocent request is refused."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest

from tests.faults.load import MODEL, Load, Outcome, prompt_of, request_of
from tests.faults.recovery import read_recovery
from tests.faults.stream_check import StreamCheck
from tests.faults.test_workers_die import busiest, recovered
from vllama_protos.v1 import generation_pb2, generation_pb2_grpc
from vllama_server.fake_engine.rendering import chat_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.fleet_process import FleetProcess
    from tests.faults.conftest import Matrix

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

LIMIT_SECONDS = float(os.environ.get("DESCRIPTOR_LIMIT_SECONDS", "60"))
"""How long the balancer can open nothing more."""
SAMPLINGS = (
    {"temperature": 0.8, "presence_penalty": 1.5},
    {"temperature": 0.8, "frequency_penalty": 0.5, "seed": 7},
    {"temperature": 0, "repetition_penalty": 1.2},
    {"temperature": 0.7, "seed": 0},
    {"temperature": 1.0},
)
TOOL = generation_pb2.Tool(name="weather", description="Returns it", parameters_json='{"type": "object"}')


@pytest.mark.quick
async def test_two_kills_in_one_streams_life(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """21: a stream loses its worker, goes on for seconds, and loses the next one too: it is whole."""
    running = fleet("--engine-arg", "speed=1")
    outcome, check, prompt, tokens = Outcome(), StreamCheck(), prompt_of(1), 600
    begun = asyncio.get_running_loop().time()
    kills = [150, 400]
    async with grpc.aio.insecure_channel(running.target) as channel:
        call = generation_pb2_grpc.GenerationStub(channel).Generate(request_of(prompt, tokens), timeout=120)
        async for event in call:
            check.add(event)
            if kills and len(check.token_ids) >= kills[0]:
                kills.pop(0)
                os.kill((await busiest(running)).pid, signal.SIGKILL)
    outcome.seconds = asyncio.get_running_loop().time() - begun
    outcome.judge(check, prompt, tokens)
    outcome.recovery = await read_recovery(running.url)
    matrix.add("21 two kills in one stream's life", outcome)
    assert outcome.clean, outcome
    assert check.finished is not None
    assert check.finished.migrations == 2
    await recovered(running, 4)


def sampled(number: int, tokens: int) -> tuple[generation_pb2.GenerateRequest, str]:
    """Makes a sampled request, every third a chat with tools; returns its rendered prompt too."""
    sampling = generation_pb2.Sampling(max_tokens=tokens, **SAMPLINGS[number % len(SAMPLINGS)])
    prompt = prompt_of(number)
    if number % 3:
        return generation_pb2.GenerateRequest(model=MODEL, prompt=prompt, sampling=sampling), prompt
    messages = [generation_pb2.Message(role="user", content=prompt)]
    chat = generation_pb2.Chat(messages=messages, tools=[TOOL])
    return generation_pb2.GenerateRequest(model=MODEL, chat=chat, sampling=sampling), chat_text(messages)


async def test_kills_under_sampled_streams(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """22: penalties, seeds and tools: streams of every kind go on after a kill, resumed or played again."""
    running = fleet("--engine-arg", "speed=2")
    load = Load(running.target, clients=12, requests=25, tokens=200, make=sampled)

    async def kill() -> None:
        for share in (0.2, 0.4, 0.6, 0.8):
            await load.reached(share)
            os.kill((await busiest(running)).pid, signal.SIGKILL)
            await recovered(running, 3)

    outcome = await load.run(kill)
    outcome.recovery = await read_recovery(running.url)
    matrix.add("22 SIGKILL under penalties, seeds and tools", outcome)
    assert outcome.clean, outcome
    assert outcome.migrated > 0
    await recovered(running, 4)


async def test_frozen_machine(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """23: everything stands still for seconds, as a container that is paused: no worker is taken for hung."""
    running = fleet()
    load = Load(running.target, tokens=200)
    pids = sorted(worker.pid for worker in running.workers())

    async def freeze() -> None:
        for share in (0.2, 0.5):
            await load.reached(share)
            frozen = running.family()
            for member in frozen:
                member.suspend()
            await asyncio.sleep(5)
            for member in frozen:
                member.resume()

    outcome = await load.run(freeze)
    outcome.recovery = await read_recovery(running.url)
    workers = running.workers()
    matrix.add("23 SIGSTOP of everything, 5 s, twice", outcome)
    assert outcome.clean, outcome
    assert all(worker.available for worker in workers), workers
    assert sorted(worker.pid for worker in workers) == pids


async def restart_command(running: FleetProcess) -> asyncio.subprocess.Process:
    """Starts `vllama restart` for all workers, in a group of its own as a shell does."""
    host = {"VLLAMA_HOST": f"127.0.0.1:{running.http_port}", "VLLAMA_GRPC_PORT": str(running.grpc_port)}
    command = [sys.executable, "-m", "vllama_clients.cli", "restart"]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **host}, stdout=pipe, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )


async def test_cancelled_restart(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """24: Ctrl-C of `vllama restart`, at three moments: no request fails, and every worker serves afterwards."""
    running = fleet("--engine-arg", "speed=1")
    load = Load(running.target, requests=60, tokens=100)
    printed: list[bytes] = []

    async def cancel() -> None:
        for seconds in (0.0, 0.3, 1.0):
            command = await restart_command(running)
            while all(worker.available for worker in await asyncio.to_thread(running.workers)):
                assert command.returncode is None, await command.communicate()
                await asyncio.sleep(0.01)
            await asyncio.sleep(seconds)
            command.send_signal(signal.SIGINT)
            printed.append((await command.communicate())[0])

    outcome = await load.run(cancel)
    outcome.recovery = await read_recovery(running.url)
    matrix.add("24 Ctrl-C of vllama restart, three times", outcome)
    assert outcome.clean, outcome
    assert not any(b"Traceback" in output for output in printed), printed
    await recovered(running, 4)


async def test_node_dies_slowly(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """25: all four workers are killed one after the other over ten seconds: each request is served all the same."""
    running = fleet("--engine-arg", "speed=1")
    load = Load(running.target, requests=40, tokens=150)

    async def die() -> None:
        await load.reached(0.1)
        for worker in running.workers():
            os.kill(worker.pid, signal.SIGKILL)
            await asyncio.sleep(2.5)

    outcome = await load.run(die)
    outcome.recovery = await read_recovery(running.url)
    matrix.add("25 node dies process by process in 10 s", outcome)
    assert outcome.clean, outcome
    await recovered(running, 4)


async def test_first_request_after_idleness(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """26: workers that had nothing to do for a while are not taken for hung by the first long prompts."""
    running = fleet("--engine-arg", "speed=0.5", workers=2)
    warm = await Load(running.target, clients=4, requests=2, tokens=3, prompt_tokens=6000).run()
    assert warm.clean, warm
    total = Outcome()
    for turn in range(2):
        await asyncio.sleep(13)
        load = Load(running.target, clients=4, requests=1, tokens=8, prompt_tokens=40_000, first=1000 * (turn + 1))
        load.outcome = total
        await load.run()
    recovery = await read_recovery(running.url)
    matrix.add("26 first long prompts after 13 s of quiet", total)
    assert total.clean, total
    assert total.complete == 8
    assert not recovery.rerouted


async def test_descriptors_at_the_limit(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """27: the balancer can open nothing more while a worker dies; requests go on, and everything comes back."""
    running = fleet()
    assert running.process is not None
    balancer = psutil.Process(running.process.pid)
    before = balancer.rlimit(psutil.RLIMIT_NOFILE)
    load = Load(running.target, requests=100, first=50_000)
    outcome = Outcome()
    async with grpc.aio.insecure_channel(running.target) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        await one(stub, outcome, 0)
        victim = random.Random(1).choice(running.workers())
        balancer.rlimit(psutil.RLIMIT_NOFILE, (balancer.num_fds(), before[1]))
        try:
            os.kill(victim.pid, signal.SIGKILL)
            until, number = asyncio.get_running_loop().time() + LIMIT_SECONDS, 1
            while asyncio.get_running_loop().time() < until:
                await asyncio.gather(*(one(stub, outcome, number + extra) for extra in range(8)))
                number += 8
                await asyncio.sleep(0.2)
        finally:
            balancer.rlimit(psutil.RLIMIT_NOFILE, before)
    outcome.seconds = LIMIT_SECONDS
    matrix.add(f"27 {LIMIT_SECONDS:.0f} s at the limit of descriptors", outcome)
    assert outcome.clean, outcome
    await asyncio.to_thread(running.wait_ready, 4, 120)
    again = await load.run()
    matrix.add("27 after the limit", again)
    assert again.clean, again
    assert again.workers[victim.name] > 0


async def one(stub: Any, outcome: Outcome, number: int) -> None:
    """Runs one request over an open channel."""
    check, prompt = StreamCheck(), prompt_of(number)
    try:
        async for event in stub.Generate(request_of(prompt, 20), timeout=60):
            check.add(event)
    except grpc.aio.AioRpcError as error:
        outcome.failed[error.code().name] += 1
        return
    outcome.judge(check, prompt, 20)
