"""Looks after one worker: notices when it hangs, and tries it again after it was taken out."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc

from vllama_balancer.health import engine_is_stalled
from vllama_protos.v1 import embedding_pb2, generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.health import HealthSettings
    from vllama_balancer.worker import Worker

logger = logging.getLogger(__name__)

PROBE_PROMPT = "Hello"
"""What a probe asks the model to continue by one token."""


class Caretaker:
    """Checks a worker again and again; the checks themselves have no state of their own."""

    def __init__(self, worker: Worker, settings: HealthSettings, clock: Callable[[], float]) -> None:
        self._worker = worker
        self._settings = settings
        self._clock = clock

    async def run(self) -> None:
        """Checks until cancelled."""
        while True:
            await asyncio.sleep(self._settings.check_interval_seconds)
            await self.check()

    async def check(self) -> None:
        """Checks once: silence, a stalled engine, a probe that is due."""
        worker = self._worker
        if not worker.is_connected or worker.report is None:
            return
        if worker.breaker.is_open:
            await self._probe_if_due()
        elif self._is_silent() and not await self._answers():
            worker.hang(f"hangs: nothing came from it for {self._settings.silence_seconds:g} s")
        elif engine_is_stalled(worker.report, self._settings):
            age = worker.report.last_step_age.ToTimedelta().total_seconds()
            worker.hang(f"hangs: streams run, and its engine has made no step for {age:.1f} s")

    def _is_silent(self) -> bool:
        return self._clock() - self._worker.heard_at > self._settings.silence_seconds

    async def _answers(self) -> bool:
        """Asks a silent worker whether it lives; its Watch stream alone may have stopped."""
        try:
            await self._worker.channel.worker.Describe(
                worker_pb2.DescribeRequest(), timeout=self._settings.answer_seconds
            )
        except grpc.aio.AioRpcError:
            return False
        self._worker.heard()
        return True

    async def _probe_if_due(self) -> None:
        worker = self._worker
        if worker.breaker.retry_in_seconds or worker.report is None:
            return
        if worker.report.state != worker_pb2.WORKER_STATE_READY:
            return
        life = worker.life
        try:
            await asyncio.wait_for(self._probe(), self._settings.probe_timeout_seconds)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else "no answer in time"
            worker.breaker.eject(f"a probe failed: {reason}")
            worker.update()
        else:
            if worker.life is life:
                worker.recovered()

    async def _probe(self) -> None:
        """Has one real unit of work done: a token, or a vector where the model only embeds."""
        worker = self._worker
        capabilities = worker.description.capabilities if worker.description is not None else ()
        if worker_pb2.CAPABILITY_COMPLETION in capabilities or worker_pb2.CAPABILITY_EMBEDDING not in capabilities:
            sampling = generation_pb2.Sampling(max_tokens=1, temperature=0.0)
            request = generation_pb2.GenerateRequest(prompt=PROBE_PROMPT, sampling=sampling, request_id=self._probe_id)
            call = worker.channel.generation.Generate(request, timeout=self._settings.probe_timeout_seconds)
            async for _ in call:
                pass
        else:
            await worker.channel.embedding.Embed(
                embedding_pb2.EmbedRequest(inputs=[PROBE_PROMPT], request_id=self._probe_id),
                timeout=self._settings.probe_timeout_seconds,
            )

    @property
    def _probe_id(self) -> str:
        return f"probe-{self._worker.name}"
