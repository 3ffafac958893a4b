"""Content and frequency of a worker's reports."""

import asyncio
from contextlib import aclosing

import pytest
from prometheus_client import CollectorRegistry

from tests.server.engines import ScriptedEngine
from vllama_protos.v1 import worker_pb2
from vllama_server.engine.protocol import EngineLoad
from vllama_server.identity import WorkerIdentity
from vllama_server.lifecycle import Lifecycle
from vllama_server.metrics import WorkerMetrics
from vllama_server.reporter import Reporter


class Bench:
    """A reporter with everything that it reads."""

    def __init__(self, interval_seconds, heartbeat_seconds):
        self.engine = ScriptedEngine()
        self.life = Lifecycle()
        self.registry = CollectorRegistry()
        self.reporter = Reporter(
            WorkerIdentity("w", ("m",)),
            self.life,
            self.engine,
            WorkerMetrics(self.registry),
            interval_seconds=interval_seconds,
            heartbeat_seconds=heartbeat_seconds,
        )


@pytest.fixture
async def bench():
    """A reporter that runs, fast, and without heartbeats unless a test waits for an hour."""
    bench = Bench(0.02, 3600.0)
    bench.life.mark_ready()
    running = asyncio.create_task(bench.reporter.run())
    yield bench
    bench.life.close()
    await running


async def next_report(watch):
    """Returns the next report, within five seconds."""
    async with asyncio.timeout(5):
        return await anext(watch)


async def test_a_report_comes_at_once(bench):
    """A new watcher does not wait for a change."""
    async with aclosing(bench.reporter.watch()) as watch:
        assert (await next_report(watch)).state == worker_pb2.WORKER_STATE_READY


async def test_nothing_changes_nothing_comes(bench):
    """Between heartbeats an idle worker sends nothing."""
    async with aclosing(bench.reporter.watch()) as watch:
        await next_report(watch)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(watch)


async def test_a_change_of_the_load_is_reported(bench):
    """Running streams, waiting ones and queued prompt tokens are each worth a report."""
    async with aclosing(bench.reporter.watch()) as watch:
        await next_report(watch)
        for load in (EngineLoad(running=1), EngineLoad(running=1, waiting=1), EngineLoad(queued_prompt_tokens=9)):
            bench.engine.reported = load
            report = await next_report(watch)
            assert (report.running, report.waiting) == (load.running, load.waiting)
            assert report.queued_prompt_tokens == load.queued_prompt_tokens


async def test_a_heartbeat_comes_without_change():
    """A quiet worker differs from a dead connection."""
    bench = Bench(0.01, 0.05)
    running = asyncio.create_task(bench.reporter.run())
    async with aclosing(bench.reporter.watch()) as watch:
        first, second = await next_report(watch), await next_report(watch)
    assert second.uptime.ToNanoseconds() > first.uptime.ToNanoseconds()
    bench.life.close()
    await running


async def test_many_changes_make_few_reports():
    """However fast the progress, reports keep their distance."""
    bench = Bench(0.05, 3600.0)
    running = asyncio.create_task(bench.reporter.run())
    loop = asyncio.get_running_loop()
    count, until = 0, loop.time() + 0.5

    async def watch():
        nonlocal count
        async for _ in bench.reporter.watch():
            count += 1

    watching = asyncio.create_task(watch())
    steps = 0
    while loop.time() < until:
        steps += 1
        bench.life.set_progress(worker_pb2.START_PHASE_LOAD, steps % 1000 / 1000)
        await asyncio.sleep(0)
    bench.life.close()
    await asyncio.gather(running, watching)
    assert steps > 100
    assert 2 <= count <= 12


async def test_a_slow_watcher_gets_the_newest_report_only(bench):
    """There is no backlog to read through."""
    async with aclosing(bench.reporter.watch()) as watch, aclosing(bench.reporter.watch()) as fast:
        await next_report(watch)
        await next_report(fast)
        for running in range(1, 6):
            bench.engine.reported = EngineLoad(running=running)
            assert (await next_report(fast)).running == running
        assert (await next_report(watch)).running == 5


async def test_the_last_report_has_the_failure(bench):
    """A watcher reads FAILED and then the end of the stream, however soon the worker closes."""
    watch = bench.reporter.watch()
    await next_report(watch)
    bench.life.mark_failed("boom")
    bench.life.close()
    reports = [report async for report in watch]
    assert (reports[-1].state, reports[-1].failure) == (worker_pb2.WORKER_STATE_FAILED, "boom")


async def test_the_load_is_shown_as_metrics(bench):
    """Scrapes read what was sampled last."""
    bench.engine.reported = EngineLoad(running=3, waiting=2, kv_cache_use=0.5)
    async with aclosing(bench.reporter.watch()) as watch:
        while (await next_report(watch)).running != 3:
            pass
    value = bench.registry.get_sample_value
    assert value("vllama_worker_streams_running") == 3
    assert value("vllama_worker_streams_waiting") == 2
    assert value("vllama_worker_kv_cache_use_ratio") == 0.5
    assert value("vllama_worker_state", {"vllama_worker_state": "ready"}) == 1
