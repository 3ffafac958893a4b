"""The worker from bind to stop: starts the engine, serves, drains and stops.

The gRPC server answers from the first moment on; the lifecycle decides which calls it takes. Every task that is started
here ends here.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vllama_protos.v1 import embedding_pb2, generation_pb2, worker_pb2
from vllama_protos.v1.embedding_pb2_grpc import add_EmbeddingServicer_to_server
from vllama_protos.v1.generation_pb2_grpc import add_GenerationServicer_to_server
from vllama_protos.v1.worker_pb2_grpc import add_WorkerServicer_to_server
from vllama_server import binding, health_service, supervisor_watch
from vllama_server.embedding_service import EmbeddingServicer
from vllama_server.errors import Draining, EngineDead, WorkerError
from vllama_server.generation_runner import GenerationRunner
from vllama_server.health_service import HealthServicer
from vllama_server.lifecycle import Lifecycle
from vllama_server.limiter import InFlightLimiter
from vllama_server.relay.relayed_call import RelayedCall
from vllama_server.reporter import Reporter
from vllama_server.rpc_log import RpcInterceptor, RpcLog
from vllama_server.service import GenerationServicer
from vllama_server.sleep import SleepSwitch
from vllama_server.tls import tls_files
from vllama_server.watchdog import Watchdog
from vllama_server.worker_service import WorkerServicer

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from vllama_server.config import WorkerConfig
    from vllama_server.engine.protocol import Engine
    from vllama_server.identity import WorkerIdentity
    from vllama_server.metrics import WorkerMetrics
    from vllama_server.signals import StopRequests

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message in either direction."""
GRACE_SECONDS = 1.0
"""How long calls may take to send their status at the end."""
SERVICES = (
    generation_pb2.DESCRIPTOR.services_by_name["Generation"].full_name,
    embedding_pb2.DESCRIPTOR.services_by_name["Embedding"].full_name,
    worker_pb2.DESCRIPTOR.services_by_name["Worker"].full_name,
)
OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # Two workers on one port must fail, not share it.
    ("grpc.so_reuseport", 0),
    # A client that is gone without closing its connection is noticed after half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Balancers ping idle connections, too; such pings are allowed.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class ExitStatus(IntEnum):
    """Exit status of the process."""

    STOPPED = 0
    START_FAILED = 1
    BAD_FLAGS = 2
    ENGINE_DIED = 3


class WorkerServer:
    """One engine behind its gRPC services. Must be made and run on the loop that serves."""

    def __init__(
        self,
        config: WorkerConfig,
        engine: Engine,
        identity: WorkerIdentity,
        metrics: WorkerMetrics,
        stops: StopRequests,
    ) -> None:
        self._config = config
        self._engine = engine
        self._stops = stops
        self._lifecycle = Lifecycle()
        self._limiter = InFlightLimiter(self._lifecycle)
        self._reporter = Reporter(identity, self._lifecycle, engine, metrics)
        self._sleep = SleepSwitch(engine, self._limiter, self._lifecycle)
        rpc_log = RpcLog(metrics)
        self._server = grpc.aio.server(interceptors=(RpcInterceptor(rpc_log),), options=OPTIONS)
        # The registry lives as long as the process: it must not keep the server beyond the interpreter's own end.
        limiter = self._limiter
        metrics.requests_in_flight.set_function(lambda: limiter.in_flight)
        runner = GenerationRunner(
            engine, self._limiter, identity, metrics, trust_client_templates=config.trust_client_templates
        )
        self._add_services(identity, runner, rpc_log)
        self.address = config.listen
        """Where it listens; after `bind` with the real port."""

    def bind(self) -> None:
        """Listens on the address. Raises StartFailed, ConfigError."""
        files = tls_files(self._config)
        credentials = files.server_credentials() if files is not None else None
        self.address = binding.bind(self._server, self._config.listen, credentials)

    async def run(self) -> ExitStatus:
        """Runs the worker to its end and returns the exit status."""
        reports = asyncio.create_task(self._reporter.run(), name="reporter")
        try:
            await self._server.start()
            logger.info("listening on %s", self.address)
            return await self._serve(reports)
        finally:
            self._lifecycle.close()
            await self._server.stop(GRACE_SECONDS)
            await self._sleep.close()
            await self._engine.stop(at_once=self._lifecycle.state == worker_pb2.WORKER_STATE_FAILED)
            binding.release(self.address)
            await _ended(reports)

    async def _serve(self, reports: asyncio.Task[None]) -> ExitStatus:
        if not await self._start_engine():
            return ExitStatus.START_FAILED if self._lifecycle.failure else ExitStatus.STOPPED
        failing = asyncio.create_task(self._failed(reports), name="engine-failure")
        try:
            await _first(failing, self._stops.drain.wait())
            if not failing.done():
                await self._drain(failing)
            if not failing.done():
                return ExitStatus.STOPPED
            await self._fail(failing.result())
            return ExitStatus.ENGINE_DIED
        finally:
            await _ended(failing)

    async def _start_engine(self) -> bool:
        """Starts the engine; False when that failed or the worker was asked to stop meanwhile."""
        loop = asyncio.get_running_loop()

        def progress(phase: worker_pb2.StartPhase, share: float) -> None:
            loop.call_soon_threadsafe(self._lifecycle.set_progress, phase, share)

        starting = asyncio.create_task(self._engine.start(progress), name="engine-start")
        await _first(starting, self._stops.drain.wait())
        if not starting.done():
            await _ended(starting)
            return False
        try:
            starting.result()
        except Exception as error:
            if not isinstance(error, WorkerError):
                logger.error("the engine could not start", exc_info=error)
            self._lifecycle.mark_failed(str(error))
            logger.error("the engine could not start: %s", error)
            return False
        described = self._engine.describe()
        self._limiter.set_capacity(described.max_streams, self._config.max_queue)
        self._lifecycle.mark_ready()
        supervisor_watch.announce_ready(self._config.parent_fd)
        logger.info("ready: serves %s on %s", ", ".join(self._config.names), self.address)
        return True

    async def _failed(self, reports: asyncio.Task[None]) -> BaseException:
        """Waits until the worker can serve no more, and returns the cause: a dead or hung engine, a failed reporter."""
        dead = asyncio.create_task(self._engine.failed())
        watchdog = Watchdog(self._engine.load, self._config.stall_seconds)
        hung = asyncio.create_task(watchdog.stalled())
        try:
            await asyncio.wait({dead, hung, reports}, return_when=asyncio.FIRST_COMPLETED)
            ended = next(task for task in (dead, hung, reports) if task.done())
            return ended.exception() or ended.result() or EngineDead("the worker's reports have ended.")
        finally:
            await _ended(dead)
            await _ended(hung)

    async def _fail(self, cause: BaseException) -> None:
        """Ends every running call with the cause."""
        logger.critical("the engine has failed: %s", cause)
        self._lifecycle.mark_failed(str(cause))
        self._limiter.evict(EngineDead(f"the engine has failed: {cause}"))

    async def _drain(self, failing: asyncio.Task[BaseException]) -> None:
        """Waits for the running streams; ends those that are left at the time limit or at a second stop signal."""
        self._lifecycle.mark_draining(for_good=True)
        logger.info("draining %d calls for up to %g s", self._limiter.in_flight, self._config.drain_timeout_seconds)
        await _first(
            failing,
            self._limiter.drained(),
            self._stops.abort.wait(),
            timeout_seconds=self._config.drain_timeout_seconds,
        )
        if not failing.done():
            left = self._limiter.evict(Draining("the worker has stopped before the stream's end; use another worker."))
            if left:
                logger.warning("ended %d calls that were still running", left)

    def _add_services(self, identity: WorkerIdentity, runner: GenerationRunner, rpc_log: RpcLog) -> None:
        server, engine, limiter = self._server, self._engine, self._limiter
        generation = GenerationServicer(
            engine, limiter, identity, runner, trust_client_templates=self._config.trust_client_templates
        )
        add_GenerationServicer_to_server(generation, server)
        add_EmbeddingServicer_to_server(EmbeddingServicer(engine, limiter, identity), server)
        relayed_call = functools.partial(RelayedCall, runner, rpc_log)
        worker = WorkerServicer(engine, limiter, identity, self._lifecycle, self._reporter, self._sleep, relayed_call)
        add_WorkerServicer_to_server(worker, server)
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(self._lifecycle, SERVICES), server)
        reflection.enable_server_reflection((*SERVICES, health_service.SERVICE, reflection.SERVICE_NAME), server)


async def _first(
    task: asyncio.Task[Any], *others: Coroutine[Any, Any, object], timeout_seconds: float | None = None
) -> None:
    """Waits until the task or one of the others is done, or the time is over; cancels the others but not the task."""
    waiting = [asyncio.ensure_future(other) for other in others]
    try:
        await asyncio.wait({task, *waiting}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for other in waiting:
            await _ended(other)


async def _ended(task: asyncio.Future[Any]) -> None:
    """Cancels a task unless it is done, and waits for its end; its owner handles the result."""
    task.cancel()
    await asyncio.wait({task})
