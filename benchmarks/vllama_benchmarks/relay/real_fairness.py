"""The first token of a new request while 49 streams run, on the real engine: /api/chat against the bare engine.

Both engines run at once and are measured in turn under the same load. All requests of a turn are finished before the
next one begins.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from contextlib import AsyncExitStack, aclosing
from random import Random
from typing import TYPE_CHECKING

import uvloop

from vllama_benchmarks.bench import specification
from vllama_benchmarks.bench.access import Access
from vllama_benchmarks.bench.command_target import CommandTarget
from vllama_benchmarks.bench.comparison import Comparison, opened
from vllama_benchmarks.bench.workload import Fixed, Uniform, Workload

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncGenerator, Iterator

    from vllama_benchmarks.bench.sample import Request
    from vllama_benchmarks.bench.target import Target

MODEL = "smollm2:135m"
DOORS = ("bare", "chat")
BUSY_STREAMS = 49
BUSY = Workload(Fixed(64), Uniform(20, 60))
"""Different lengths, so that streams do not begin and end all at once."""
PROBE = Workload(Fixed(64), Fixed(1))
PROBES = 38
WARM_UP_PROBES = 2
LONGEST_PAUSE_SECONDS = 1.5
"""Several steps of 0.3 to 0.6 s, so that a probe comes at any moment of a step. With a pause of about one step
the result would depend on which door's probes still enter the same step."""


def run(options: argparse.Namespace) -> None:
    """The fairness target on the real engine."""
    uvloop.run(_run(options.repeats))


async def _run(repeats: int) -> None:
    async with AsyncExitStack() as stack:
        doors = await stack.enter_async_context(
            opened(Comparison(MODEL, doors=DOORS), lambda text: print(text, file=sys.stderr, flush=True))
        )
        targets = specification.targets(doors.targets, MODEL, Access())
        for target in targets.values():
            if isinstance(target, CommandTarget):
                stack.push_async_callback(target.close)
        for repeat in range(repeats):
            found = {name: await _first_tokens(target, repeat, name) for name, target in targets.items()}
            bare, chat = (statistics.median(found[name]) for name in DOORS)
            print(
                f"first token beside {BUSY_STREAMS} streams of {MODEL}, {PROBES} probes: bare engine median"
                f" {1e3 * bare:.1f} ms, /api/chat median {1e3 * chat:.1f} ms; ratio {chat / bare:.3f}",
                flush=True,
            )


async def _first_tokens(target: Target, repeat: int, name: str) -> list[float]:
    """Keeps the busy streams running and measures the probes between them, in seconds; all doors get the same load."""
    is_over = asyncio.Event()
    random = Random(repeat)
    async with asyncio.TaskGroup() as busy:
        for index in range(BUSY_STREAMS):
            requests = BUSY.requests(Random(f"{repeat}.{index}"), f"{repeat}.{name}.{index}")
            busy.create_task(_keep_busy(target, requests, is_over))
        async with aclosing(_probes(target, PROBE.requests(random, f"{repeat}.{name}.probe"), random)) as probes:
            found = [seconds async for seconds in probes]
        is_over.set()
    return found[WARM_UP_PROBES:]


async def _keep_busy(target: Target, requests: Iterator[Request], is_over: asyncio.Event) -> None:
    async with target.session() as session:
        while not is_over.is_set():
            sample = await session.run(next(requests))
            if sample.error:
                raise SystemExit(f"a busy stream failed: {sample.error}")


async def _probes(target: Target, requests: Iterator[Request], random: Random) -> AsyncGenerator[float, None]:
    async with target.session() as session:
        for _ in range(WARM_UP_PROBES + PROBES):
            await asyncio.sleep(random.uniform(0, LONGEST_PAUSE_SECONDS))
            sample = await session.run(next(requests))
            if sample.error or sample.ttft_seconds is None:
                raise SystemExit(f"a probe failed: {sample.error or 'no token'}")
            yield sample.ttft_seconds
