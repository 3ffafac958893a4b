"""Balancer: one balancer process, from its ports to its end. The only place where its parts are put together.

- Ports are bound before anything is started: a port in use costs nothing.
- The front doors answer while workers load: health checks and waiting requests see a server.
- Workers end with the process, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from vllama_balancer.dispatch.admission import AdmissionSettings
from vllama_balancer.dispatch.dispatcher import Dispatcher
from vllama_balancer.fleet.assignment import slots, worker_spec
from vllama_balancer.fleet.devices import MachineProbe
from vllama_balancer.fleet.membership import JoinedFleet, read_token
from vllama_balancer.fleet.sources import local_fleet, ray_fleet, remote_sources
from vllama_balancer.metrics import Metrics, register_process_metrics
from vllama_balancer.models.catalog import Catalog
from vllama_balancer.models.management import StoreManagement
from vllama_balancer.models.pulls import PullRules
from vllama_balancer.models.resolve import Resolver
from vllama_balancer.models.store import Store
from vllama_balancer.models.table import ModelTable
from vllama_balancer.names import model_key
from vllama_balancer.routing.policies import make_policy
from vllama_balancer.scheduler.machine import Machine
from vllama_balancer.scheduler.memory import GpuMemory, spare_host_memory
from vllama_balancer.scheduler.on_demand import OnDemand
from vllama_balancer.scheduler.replicas import Replicas
from vllama_balancer.scheduler.scheduler import ModelScheduler
from vllama_balancer.scheduler.settings import SchedulerSettings
from vllama_balancer.scheduler.sleeping import GrpcSleepControl
from vllama_balancer.startup.front_doors import FrontDoors, LocalParts
from vllama_balancer.startup.model_setup import first_readiness, hosted, installed, simulated
from vllama_balancer.startup.startup_display import StartupDisplay, banner
from vllama_balancer.startup.tls import channel_opener
from vllama_balancer.workers.discovery_grace import DiscoveryGrace
from vllama_balancer.workers.metrics import PoolCollector
from vllama_balancer.workers.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from typing import Any, TextIO

    from vllama_balancer.config import BalancerConfig
    from vllama_balancer.fleet.local import LocalFleet
    from vllama_balancer.fleet.on_ray.fleet import RayFleet
    from vllama_balancer.fleet.process import LogSink
    from vllama_balancer.signals import StopRequests

logger = logging.getLogger(__name__)


class Balancer:
    """One balancer process. `run` it once.

    `sink` gets the lines of the workers, `out` the banner, and `display` the progress of the start.
    """

    def __init__(
        self,
        config: BalancerConfig,
        environment: Mapping[str, str],
        stops: StopRequests,
        sink: LogSink,
        out: TextIO,
        display: TextIO,
    ) -> None:
        self._config = config
        self._environment = environment
        self._stops = stops
        self._out = out
        self._sink = sink
        self._display = display
        self._registry = CollectorRegistry()
        self._metrics = Metrics(self._registry)
        self._pool = Pool(open_channel=channel_opener(config), forget=self._metrics.forget_worker)
        token_file = config.join_token_file
        self._joined = JoinedFleet(read_token(token_file)) if token_file is not None else None
        self._has_own = config.fleet != "none" and not config.worker_addresses
        self._catalog = Catalog(self._pool)
        self._dispatcher = Dispatcher(
            self._pool,
            self._catalog,
            make_policy(config.policy),
            self._metrics,
            AdmissionSettings(max_queue=config.max_queue),
            discovery_grace=DiscoveryGrace(
                self._pool,
                rejoin_seconds=self._joined.lease_seconds if self._joined is not None else 0.0,
                only_remote_workers=not self._has_own,
            ),
        )
        self._registry.register(PoolCollector(self._pool, self._waiting))
        register_process_metrics(self._registry)
        self._store = Store(config.models_directory)
        self._fleet: LocalFleet | RayFleet | None = None
        self._scheduler: ModelScheduler | None = None
        self._on_demand: OnDemand | None = None

    async def run(self) -> None:
        """Serves until a stop request.

        Raises BalancerError when it cannot start: a port in use, an unknown model, no worker that lives.
        """
        async with AsyncExitStack() as ending:
            local = self._local_parts(ending) if self._has_own else None
            doors = FrontDoors(
                *(self._config, self._dispatcher, self._pool, self._registry, local, self._joined, self._waiting)
            )
            ending.callback(doors.release)
            doors.bind()
            ending.push_async_callback(self._end_workers)
            await ending.enter_async_context(self._dispatcher)
            if local is not None:
                await self._read_store()
            await doors.open()
            ending.push_async_callback(doors.close)
            await self._serve(doors)

    def _local_parts(self, ending: AsyncExitStack) -> LocalParts:
        """Builds what starts workers and loads models; nothing is started yet."""
        config = self._config
        found = slots(config, MachineProbe(self._environment))
        make_fleet = ray_fleet if config.fleet == "ray" else local_fleet
        self._fleet = make_fleet(config, self._environment, self._sink)
        ending.callback(self._fleet.clear)
        settings = SchedulerSettings(
            keep_alive_seconds=config.keep_alive_seconds,
            max_loaded_models=config.max_loaded_models,
            stall_seconds=config.load_timeout_seconds,
            max_waiting=config.max_queue,
            sleep_seconds=config.sleep_seconds,
        )
        replicas = Replicas(self._fleet, found, functools.partial(worker_spec, config))
        gpus = GpuMemory(MachineProbe(self._environment), config.gpu_memory_utilization)
        machine = Machine(replicas, self._pool, GrpcSleepControl(self._pool), settings, spare_host_memory)
        self._scheduler = ModelScheduler(machine, gpus, self._catalog.expires, awaits_preload=True)
        named = config.models if config.is_pinned else ()
        rules = PullRules(self._table(), config.pull_sources, config.pull_quota_bytes)
        management = StoreManagement(self._store, self._resolver(), self._catalog, self._scheduler, named, rules)
        self._on_demand = OnDemand(self._dispatcher, self._catalog, self._scheduler, metrics=self._metrics)
        return LocalParts(self._on_demand, management, self._fleet, self._scheduler)

    def _table(self) -> ModelTable:
        return ModelTable.load(self._config.models_directory / "models.toml")

    def _resolver(self) -> Resolver:
        return Resolver(self._store, self._table(), self._environment)

    async def _serve(self, doors: FrontDoors) -> None:
        followers = [_task(self._pool.follow(source.events()), "follow the fleet") for source in self._sources()]
        stopping = _task(self._stops.drain.wait(), "wait for a stop")
        starting = _task(self._start(doors), "start")
        try:
            await asyncio.wait([starting, stopping, *followers], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await asyncio.wait([stopping, *followers], return_when=asyncio.FIRST_COMPLETED)
            for follower in followers:
                if follower.done():
                    follower.result()
            await self._drain(doors)
        finally:
            await _cancelled(starting, stopping, *followers)

    def _sources(self) -> list[Any]:
        own = [self._fleet] if self._fleet is not None else remote_sources(self._config.worker_addresses)
        return [*own, *([self._joined] if self._joined is not None else [])]

    async def _start(self, doors: FrontDoors) -> None:
        began = time.monotonic()
        if self._scheduler is not None:
            await self._start_workers(self._scheduler)
        display = _task(StartupDisplay(self._pool, self._display).run(), "show progress")
        try:
            await first_readiness(self._pool)
        finally:
            await _cancelled(display)
        ready = sum(1 for worker in self._pool.workers() if not worker.unavailable)
        elapsed = time.monotonic() - began
        self._out.write(banner(self._catalog.models(), ready, doors.http_url, doors.grpc_address, elapsed))
        self._out.flush()

    async def _read_store(self) -> None:
        """Fills the catalog with the installed models before the first request. Requests for named ones wait."""
        resolver = self._resolver()
        for stored in await asyncio.to_thread(self._store.models):
            self._catalog.install(stored, await asyncio.to_thread(resolver.describe, stored))
        self._catalog.expect(self._config.models)

    async def _start_workers(self, scheduler: ModelScheduler) -> None:
        config = self._config
        resolver = self._resolver()
        if config.engine == "fake":
            models = [self._catalog.installed(name) or simulated(name) for name in config.models]
        else:
            models = await installed(config.models, resolver, self._display)
        for model in models:
            self._catalog.install(model, await asyncio.to_thread(resolver.describe, model))
        self._catalog.expect(())
        hosts = [self._catalog.hosted(model.name) for model in models]
        named = [hosted(host, name) for host, name in zip(hosts, config.models, strict=True) if host is not None]
        scheduler.preload([(model_key(host.names[0]), host) for host in named], pinned=config.is_pinned)

    async def _drain(self, doors: FrontDoors) -> None:
        """Refuses new requests and waits for running streams: until the timeout, or until a second stop request."""
        doors.drain()
        if running := self._in_flight:
            logger.info("finishing %d requests; stop again to end at once", running)
        second_stop = _task(self._stops.abort.wait(), "wait for a second stop")
        idle = _task(self._idle(doors), "wait for the last request")
        await asyncio.wait(
            [second_stop, idle], timeout=self._config.drain_timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        await _cancelled(second_stop, idle)

    @property
    def _in_flight(self) -> int:
        """Requests that run, or wait for a load or a worker."""
        return self._dispatcher.in_flight + self._loading

    def _waiting(self) -> int:
        """Returns the requests that wait for a worker, or for their model."""
        return self._dispatcher.waiting + self._loading

    @property
    def _loading(self) -> int:
        """Requests that wait for their model to be installed or loaded."""
        return self._on_demand.loading if self._on_demand is not None else 0

    async def _idle(self, doors: FrontDoors) -> None:
        # Requests are only counted; ending a little late costs nothing.
        while self._in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await doors.settle()

    async def _end_workers(self) -> None:
        if self._scheduler is not None:
            await self._scheduler.close()
        if self._fleet is not None:
            closing = _task(self._fleet.close(), "end the workers")
            second_stop = _task(self._stops.abort.wait(), "wait for a second stop")
            await asyncio.wait([closing, second_stop], return_when=asyncio.FIRST_COMPLETED)
            self._fleet.kill()
            await closing
            await _cancelled(second_stop)
        await self._pool.close()


def _task(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    return asyncio.create_task(work, name=name)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits for their ends; errors of failed ones are read elsewhere."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(BaseException):
            await task
