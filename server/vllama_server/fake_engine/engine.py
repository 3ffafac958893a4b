"""The simulated engine: runs the step model on the event loop behind the Engine protocol."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import TYPE_CHECKING

from vllama_protos.v1 import embedding_pb2, worker_pb2
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine.protocol import EngineLoad
from vllama_server.errors import CapabilityMissing, ConfigError, ContextTooLong, EngineDead, InvalidRequest
from vllama_server.fake_engine import embedding, tokens
from vllama_server.fake_engine.clock import LoopClock
from vllama_server.fake_engine.fault_injection import FaultInjector, kill_process
from vllama_server.fake_engine.generation import Generation
from vllama_server.fake_engine.output import Output
from vllama_server.fake_engine.prefix_cache import block_ids
from vllama_server.fake_engine.rates import Rates
from vllama_server.fake_engine.rendering import render, render_within
from vllama_server.fake_engine.simulation_profile import Faults, SimulationProfile, from_arguments
from vllama_server.fake_engine.steps import StepModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from vllama_server.config import WorkerConfig
    from vllama_server.engine.protocol import Progress
    from vllama_server.fake_engine.clock import Clock
    from vllama_server.fake_engine.steps import Step

logger = logging.getLogger(__name__)

DEFAULT_OUTPUT_TOKENS = 128
OWN_CONTEXT_TOKENS = 32_768
"""What `--max-model-len 0` serves."""
CATCH_UP_SECONDS = 0.05
"""How much lost time the engine makes up for after the event loop was busy."""
LEAD_TOKENS = 16
"""With steps that take no time: how far the engine runs ahead of the readers that keep up best."""
READER_WAIT_SECONDS = 0.005
"""With steps that take no time: how long the engine waits for a reader before it goes on."""
START_STAGES = 20
"""Progress reports of a start that takes time."""


class FakeEngine:
    """Generates " hash.count" tokens at the pace of a profile, with faults on demand."""

    def __init__(
        self,
        profile: SimulationProfile | None = None,
        faults: Faults | None = None,
        *,
        context_tokens: int = 4096,
        clock: Clock | None = None,
        random: Random | None = None,
        die: Callable[[], None] = kill_process,
    ) -> None:
        self._profile = profile or SimulationProfile()
        faults = faults or Faults()
        self._start_seconds = faults.start_seconds
        self._faults = FaultInjector(faults, random or Random(), die)
        self._context_tokens = context_tokens
        self._clock = clock or LoopClock()
        self._model = StepModel(self._profile)
        self._rates = Rates()
        self._live: set[Generation] = set()
        self._work = asyncio.Event()
        self._reader_waits = asyncio.Event()
        self._failed = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None

    @classmethod
    def from_config(cls, config: WorkerConfig) -> FakeEngine:
        """Builds the engine that flags ask for. Raises ConfigError for a wrong --engine-arg."""
        try:
            profile, faults = from_arguments(config.engine_args, config.max_streams)
        except ValueError as error:
            raise ConfigError(f"--engine-arg: {error}") from None
        context_tokens = min(config.max_model_len or OWN_CONTEXT_TOKENS, profile.kv_cache_tokens)
        return cls(profile, faults, context_tokens=context_tokens)

    async def start(self, progress: Progress) -> None:
        """Waits for the configured time, then runs."""
        logger.warning("this engine is simulated: its text means nothing")
        progress(worker_pb2.START_PHASE_RESOLVE, 1.0)
        started_at = self._clock.time()
        for stage in range(START_STAGES if self._start_seconds else 0):
            progress(worker_pb2.START_PHASE_LOAD, stage / START_STAGES)
            await self._clock.sleep_until(started_at + (stage + 1) * self._start_seconds / START_STAGES)
        progress(worker_pb2.START_PHASE_WARM_UP, 0.0)
        self._loop_task = asyncio.create_task(self._run(), name="fake-engine-steps")
        self._loop_task.add_done_callback(self._loop_ended)

    def describe(self) -> worker_pb2.DescribeResponse:
        return worker_pb2.DescribeResponse(
            capabilities=(
                worker_pb2.CAPABILITY_COMPLETION,
                worker_pb2.CAPABILITY_CHAT,
                worker_pb2.CAPABILITY_EMBEDDING,
            ),
            context_length=self._context_tokens,
            max_streams=self._profile.max_streams,
            kv_cache_tokens=self._profile.kv_cache_tokens,
            block_tokens=self._profile.block_tokens,
            device=worker_pb2.Device(kind="simulated", name="simulated"),
            simulated=True,
            can_sleep=self._profile.can_sleep,
            model_info=worker_pb2.ModelInfo(
                architecture="simulated",
                embedding_length=embedding.VECTOR_LENGTH,
                trained_context_length=self._context_tokens,
            ),
        )

    def load(self) -> EngineLoad:
        now, model, rates = self._clock.time(), self._model, self._rates
        age = rates.last_step_age_seconds(now)
        return EngineLoad(
            running=model.running,
            waiting=model.waiting,
            kv_cache_use=model.kv_cache_use,
            queued_prompt_tokens=model.queued_prompt_tokens,
            prefill_tokens_per_second=rates.prefill_tokens_per_second,
            decode_tokens_per_second=rates.decode_tokens_per_second(now),
            step_seconds=rates.step_seconds,
            prefix_hit_rate=model.hit_tokens / model.queried_tokens if model.queried_tokens else 0.0,
            last_step_age_seconds=age if age is None or self._has_work else 0.0,
        )

    async def generate(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse, None]:
        generation, dropped = self._prepare(request)
        if generation.has_ended_before:
            yield generation.started(dropped)
            yield generation.completed()
            return
        self._submit(generation)
        try:
            while not generation.admitted:
                await self._wait_for(generation)
            yield generation.started(dropped)
            while generation.readable or not generation.finished:
                if generation.readable:
                    yield generation.take()
                else:
                    await self._wait_for(generation)
            yield generation.completed()
        finally:
            self._live.discard(generation)
            self._model.cancel(generation)

    async def tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        ids = tokens.to_ids(render(request))
        return pb.TokenizeResponse(token_ids=ids, text=tokens.decode(ids))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        try:
            return tokens.decode(token_ids)
        except ValueError as error:
            raise InvalidRequest(f"token_ids: {error}", "token_ids") from None

    async def embed(self, request: embedding_pb2.EmbedRequest) -> embedding_pb2.EmbedResponse:
        return await embedding.embed_all(request, self._context_tokens)

    async def sleep(self) -> None:
        if not self._profile.can_sleep:
            raise CapabilityMissing("the simulated engine cannot sleep; --engine-arg can_sleep=1 lets it.")
        self._model.clear_cache()

    async def wake(self) -> None:
        await self._clock.sleep_until(self._clock.time() + self._profile.wake_seconds)

    async def failed(self) -> Exception:
        await self._failed.wait()
        return EngineDead("the simulated engine's step loop has failed; see the log.")

    async def stop(self, *, at_once: bool = False) -> None:
        task, self._loop_task = self._loop_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self._fail_all()

    @property
    def _has_work(self) -> bool:
        return bool(self._model.running or self._model.waiting)

    def _prepare(self, request: pb.GenerateRequest) -> tuple[Generation, int]:
        """Renders a request and determines its output; also returns the number of dropped turns."""
        if request.HasField("output_format") and not self._profile.accepts_formats:
            raise InvalidRequest("output_format: the simulated engine cannot constrain its output.", "output_format")
        context = min(request.max_context_tokens or self._context_tokens, self._context_tokens)
        data, dropped = render_within(request, context)
        if not data:
            raise InvalidRequest("the prompt is empty; give at least one character.", "prompt")
        self._faults.check_prompt(data)
        sampling = request.sampling
        room = min(context - len(data) // tokens.TOKEN_BYTES, tokens.OUTPUT_LIMIT)
        limit = sampling.max_tokens if sampling.HasField("max_tokens") else DEFAULT_OUTPUT_TOKENS
        limit = room if limit < 0 else min(limit, room)
        output = Output(tokens.prompt_hash(data), limit, sampling.stop, sampling.min_tokens)
        ids = block_ids(data, self._profile.block_tokens * tokens.TOKEN_BYTES)
        generation = Generation(request, data, ids, output)
        if not self._model.fits(generation):
            raise ContextTooLong("the prompt and its output do not fit the KV cache; raise kv_cache_tokens.", "prompt")
        return generation, dropped

    def _submit(self, generation: Generation) -> None:
        if self._loop_task is None or self._failed.is_set():
            raise EngineDead("the simulated engine does not run.")
        generation.submitted_at = self._clock.time()
        if not self._has_work:
            self._rates.work_begins(generation.submitted_at)
        self._live.add(generation)
        self._model.submit(generation)
        self._work.set()

    async def _wait_for(self, generation: Generation) -> None:
        self._reader_waits.set()
        await generation.changed()

    async def _run(self) -> None:
        """Makes steps while there is work."""
        due = self._clock.time()
        while True:
            step = self._model.begin()
            if step is None:
                self._work.clear()
                await self._work.wait()
                due = self._clock.time()
                continue
            now = self._clock.time()
            self._note_admitted(step, now)
            due = max(due, now - CATCH_UP_SECONDS) + step.seconds
            await self._pass_time(step, due)
            await self._faults.count_tokens(self._deliver(step))

    async def _pass_time(self, step: Step, due: float) -> None:
        if step.seconds:
            await self._clock.sleep_until(due)
            return
        # An engine whose steps take no time runs at the pace of its readers: it yields once, and if all of
        # them are behind it waits a little for one of them.
        await asyncio.sleep(0)
        if any(generation.lead < LEAD_TOKENS for generation in self._live):
            return
        self._reader_waits.clear()
        handle = asyncio.get_running_loop().call_later(READER_WAIT_SECONDS, self._reader_waits.set)
        try:
            await self._reader_waits.wait()
        finally:
            handle.cancel()

    def _note_admitted(self, step: Step, now: float) -> None:
        for stream in step.admitted:
            assert isinstance(stream, Generation)
            stream.admitted_at = stream.first_at = stream.last_at = now
            stream.wake()

    def _deliver(self, step: Step) -> int:
        """Wakes the readers of new tokens; returns the number of tokens."""
        now = self._clock.time()
        advanced = self._model.finish(step)
        for stream in advanced:
            assert isinstance(stream, Generation)
            stream.last_at = now
            if stream.produced_tokens <= 1:
                stream.first_at = now
            stream.wake()
        # A stream without output tokens advances without one.
        generated = sum(stream.output_tokens > 0 for stream in advanced)
        self._rates.record(now, step.seconds, generated, step.prefill_tokens)
        return generated

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            logger.error("the step loop of the simulated engine has failed", exc_info=task.exception())
            self._failed.set()
            self._fail_all()

    def _fail_all(self) -> None:
        for generation in self._live:
            generation.error = EngineDead("the simulated engine has ended.")
            generation.wake()
