"""VllmEngine: the Engine protocol on vLLM, from the first import to the last process.

Light to import: vLLM itself is imported in a thread when the engine starts, because that takes seconds in which the
worker must already answer Watch and health.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import multiprocessing
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil
import pynvml

from vllama_protos.v1.worker_pb2 import START_PHASE_LOAD, START_PHASE_RESOLVE, START_PHASE_WARM_UP
from vllama_server.errors import CapabilityMissing, EngineDead, NotReady, StartFailed
from vllama_server.vllm_adapter import parent_watch
from vllama_server.vllm_adapter.child_reports import ProgressHandler, ReportInbox, StartProgress
from vllama_server.vllm_adapter.engine_config import EngineConfig
from vllama_server.vllm_adapter.environment import allowed_cores, has_batch_invariance, prepare
from vllama_server.vllm_adapter.gc_pause import gc_paused
from vllama_server.vllm_adapter.preload import Preloader
from vllama_server.vllm_adapter.start_advice import failure_message
from vllama_server.vllm_adapter.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Sequence

    from vllama_protos.v1 import embedding_pb2, generation_pb2, worker_pb2
    from vllama_server.config import WorkerConfig
    from vllama_server.engine.protocol import EngineLoad, Progress
    from vllama_server.vllm_adapter.child_reports import Report
    from vllama_server.vllm_adapter.loaded_engine import LoadedEngine


logger = logging.getLogger(__name__)

STOP_POLL_SECONDS = 0.2
DEATH_POLL_SECONDS = 0.25
"""vLLM itself detects a dead process within a second, and shows it only in a flag."""


class VllmEngine:
    """One model on vLLM. Starts once; see the Engine protocol for its methods."""

    def __init__(self, engine_config: EngineConfig) -> None:
        self._engine_config = engine_config
        self._loaded: LoadedEngine | None = None
        self._workspace: Workspace | None = None
        self._inbox: ReportInbox | None = None
        self._preloader = Preloader()
        self._processes: EngineProcesses | None = None
        self._building: asyncio.Task[LoadedEngine] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False
        self._failure: asyncio.Future[Exception] | None = None

    @classmethod
    def from_config(cls, config: WorkerConfig) -> VllmEngine:
        return cls(EngineConfig.from_config(config))

    async def start(self, progress: Progress) -> None:
        """Loads the model in a thread, then computes a first token."""
        start_progress = StartProgress(progress)
        start_progress.reach(START_PHASE_RESOLVE)
        self._failure = asyncio.get_running_loop().create_future()
        self._workspace = Workspace()
        self._inbox = ReportInbox(self._workspace.path, lambda report: start_progress.read(report.message))
        self._processes = EngineProcesses()
        prepare(
            os.environ,
            self._engine_config,
            self._workspace.path,
            cores=allowed_cores(),
            batch_invariant=self._engine_config.device != "cpu" and has_batch_invariance(pynvml),
            process_id=os.getpid(),
        )
        parent_watch.hand_down()
        handler = ProgressHandler(start_progress)
        logging.getLogger("vllm").addHandler(handler)
        try:
            preloaded = self._preloader.begin(self._engine_config, os.environ)
            self._building = asyncio.create_task(self._build(start_progress, preloaded), name="vllm-build")
            self._loaded = await asyncio.shield(self._building)
            start_progress.reach(START_PHASE_WARM_UP)
            await self._loaded.warm_up()
        except Exception as error:
            message = self._explain(error)
            await self.stop()
            raise StartFailed(message) from error
        finally:
            logging.getLogger("vllm").removeHandler(handler)
        self._watching = asyncio.create_task(self._watch(self._loaded), name="vllm-death-watch")

    async def _build(self, start_progress: StartProgress, preloaded: bool) -> LoadedEngine:
        """Imports vLLM, checks the model and loads it, in threads; ends between steps once stopped."""
        # A thread of its own: a module that keeps an exception of its import keeps the frames of that thread alive, and
        # those must not hold the engine.
        loaded: Any = await asyncio.to_thread(_import, "vllama_server.vllm_adapter.loaded_engine")
        self._end_if_stopped()
        config = await asyncio.to_thread(loaded.configure, self._engine_config)
        self._end_if_stopped()
        start_progress.reach(START_PHASE_LOAD)
        engine: LoadedEngine = await asyncio.to_thread(
            loaded.LoadedEngine, config, self._engine_config, preloaded=preloaded
        )
        return engine

    def _end_if_stopped(self) -> None:
        if self._stopping:
            raise StartFailed("The engine was stopped while it started.")

    def _explain(self, error: Exception) -> str:
        if isinstance(error, StartFailed):
            return str(error)
        failures: Sequence[Report] = self._inbox.failures() if self._inbox else ()
        return failure_message(self._engine_config, error, failures)

    def describe(self) -> worker_pb2.DescribeResponse:
        return self._running().description

    def load(self) -> EngineLoad:
        engine = self._running()
        return engine.meter.load(engine.unfinished_requests, engine.queued_prompt_tokens)

    def generate(
        self, request: generation_pb2.GenerateRequest
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        return self._running().generate(request)

    async def tokenize(self, request: generation_pb2.TokenizeRequest) -> generation_pb2.TokenizeResponse:
        return await self._running().tokenize(request)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return self._running().detokenize(token_ids)

    async def embed(self, request: embedding_pb2.EmbedRequest) -> embedding_pb2.EmbedResponse:
        return await self._running().embed(request)

    async def sleep(self) -> None:
        """Moves the weights to the host's memory; an engine that fails in the middle is dead."""
        await self._moved(self._running().sleep())

    async def wake(self) -> None:
        """Moves them back; an engine that fails in the middle is dead."""
        await self._moved(self._running().wake())

    async def _moved(self, move: Coroutine[Any, Any, None]) -> None:
        try:
            await move
        except CapabilityMissing:
            raise
        except Exception as error:
            dead = EngineDead(f"The weights could not be moved between the device and the host: {error}")
            if self._failure is not None and not self._failure.done():
                self._failure.set_result(dead)
            raise dead from error

    async def failed(self) -> Exception:
        """See Engine.failed. Only after `start`."""
        if self._failure is None:
            raise NotReady("The engine has not been started.")
        return await asyncio.shield(self._failure)

    async def stop(self, *, at_once: bool = False) -> None:
        """Ends the engine in order; kills its processes if `at_once` or if it has not started yet."""
        self._stopping = True
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        await self._abandon_build()
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            await loaded.detach()
            if at_once:
                self._kill_processes()
            await asyncio.to_thread(loaded.shut_down)
            # The sockets are closed by now: that callback was scheduled on this loop before the end of the thread.
            await asyncio.to_thread(loaded.close)
            del loaded
            gc.collect()  # vLLM's objects are in cycles and print errors if they live until the interpreter ends
        await asyncio.to_thread(self._preloader.end)
        if self._inbox is not None:
            await asyncio.to_thread(self._inbox.close)
        if self._workspace is not None:
            await asyncio.to_thread(self._workspace.close)

    async def _abandon_build(self) -> None:
        """Waits for the thread of `_build`, which ends once the processes that it waits for are gone."""
        building, self._building = self._building, None
        if building is None:
            return
        while not building.done():
            self._kill_processes()
            await asyncio.wait({building}, timeout=STOP_POLL_SECONDS)
        if not building.cancelled() and building.exception() is None:
            self._loaded = building.result()

    async def _watch(self, loaded: LoadedEngine) -> None:
        """Waits for the death of a process or a stuck render, then kills the processes so that every call ends."""
        while not loaded.is_dead and not loaded.is_stuck:  # noqa: ASYNC110  # vLLM has a flag and no event
            await asyncio.sleep(DEATH_POLL_SECONDS)
        if loaded.is_stuck:
            reason = "A render of the model's chat template does not end."
        else:
            reason = f"A process of the engine has died{self._cause_of_death()}."
        logger.error("%s", reason)
        self._kill_processes()
        if self._failure is not None and not self._failure.done():
            self._failure.set_result(EngineDead(reason))

    def _cause_of_death(self) -> str:
        report = self._inbox.fatal() if self._inbox else None
        return f" ({report.error_type}: {report.error})" if report else ""

    def _kill_processes(self) -> None:
        if self._processes is not None:
            self._processes.kill()

    def _running(self) -> LoadedEngine:
        if self._loaded is None:
            raise EngineDead("The engine was stopped.") if self._stopping else NotReady("The engine is still starting.")
        return self._loaded


def _import(name: str) -> Any:
    with gc_paused():
        return importlib.import_module(name)


class EngineProcesses:
    """The processes of one engine: those that multiprocessing starts after this object is made."""

    def __init__(self) -> None:
        self._others = {child.pid for child in multiprocessing.active_children()}

    def kill(self) -> None:
        """Kills them with all their descendants: they may be stuck, stopped or in the middle of a start."""
        for child in multiprocessing.active_children():
            if child.pid not in self._others:
                _kill_tree(child.pid)


def _kill_tree(process_id: int | None) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(process_id)
        for doomed in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                doomed.kill()
