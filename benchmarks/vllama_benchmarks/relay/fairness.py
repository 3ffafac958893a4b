"""The first token of a new request while 49 streams run: through the chain, against the bare engine.

The bare engine is the same simulation in this process under the same load, without any wire. Both
are measured in turn; a request comes at a random moment of a step.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import statistics
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from vllama_benchmarks.relay.lean_client import Connection, drive
from vllama_benchmarks.relay.processes import fleet
from vllama_protos.v1 import generation_pb2
from vllama_server.fake_engine.engine import FakeEngine
from vllama_server.fake_engine.simulation_profile import SimulationProfile

if TYPE_CHECKING:
    import argparse

BUSY_STREAMS = 49
BUSY_TOKENS = 800
PROBES = 60
STEP_SECONDS = 0.02


def run(options: argparse.Namespace) -> None:
    """The fairness target: a ratio of at most 1.2."""
    for _ in range(options.repeats):
        bare = asyncio.run(_bare())
        through = _through_the_chain()
        ratio = statistics.median(through) / statistics.median(bare)
        print(
            f"first token beside {BUSY_STREAMS} streams, {PROBES} probes: bare engine median"
            f" {1e3 * statistics.median(bare):.2f} ms max {1e3 * max(bare):.2f} ms; chain median"
            f" {1e3 * statistics.median(through):.2f} ms max {1e3 * max(through):.2f} ms; ratio {ratio:.3f}",
            flush=True,
        )


def _through_the_chain() -> list[float]:
    found = []
    with fleet(1, (f"step_seconds={STEP_SECONDS}", "step_seconds_per_stream=0")) as running:
        # A process of its own: in this one the probe would wait for the interpreter as well.
        context = multiprocessing.get_context("spawn")
        busy = context.Process(target=drive, args=(running.http_port, BUSY_STREAMS, BUSY_TOKENS, 1))
        busy.start()
        time.sleep(2.0)
        connection = Connection(running.http_port)
        for index in range(PROBES):
            time.sleep(random.uniform(0.1, 0.1 + STEP_SECONDS))
            connection.ask(f"probe {index}", 1)
            found.append(connection.wait().ttft_seconds)
        assert busy.is_alive(), "the load has ended before the probes"
        connection.close()
        busy.join()
    return found


async def _bare() -> list[float]:
    engine = FakeEngine(SimulationProfile(step_seconds=STEP_SECONDS, step_seconds_per_stream=0.0))
    await engine.start(lambda phase, share: None)
    busy = [asyncio.create_task(_consume(engine, f"busy {index}", BUSY_TOKENS)) for index in range(BUSY_STREAMS)]
    try:
        await asyncio.sleep(1.0)
        found = []
        for index in range(PROBES):
            await asyncio.sleep(random.uniform(0.1, 0.1 + STEP_SECONDS))
            found.append(await _consume(engine, f"probe {index}", 1))
        return found
    finally:
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await engine.stop()


async def _consume(engine: FakeEngine, prompt: str, tokens: int) -> float:
    sampling = generation_pb2.Sampling(max_tokens=tokens)
    request = generation_pb2.GenerateRequest(request_id=prompt, prompt=prompt, sampling=sampling)
    began, first = time.monotonic(), 0.0
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if event.HasField("delta"):
                first = first or time.monotonic()
    return first - began
