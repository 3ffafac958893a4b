"""The health checks of one worker: ejects it when it hangs, and probes it after it was ejected."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from vllama_balancer.workers.breaker import AnswerTimeout, engine_stall_limit_seconds
from vllama_balancer.workers.channel import is_local
from vllama_protos.v1 import embedding_pb2, generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.workers.breaker import HealthSettings
    from vllama_balancer.workers.worker import Worker

PROBE_PROMPT = "Hello"
"""The prompt that a probe continues by one token."""
_STOPPED = (b"T", b"t")
"""States of a process that was stopped, by a signal or a debugger; see proc(5)."""


def is_stopped(pid: int) -> bool:
    """Returns whether a process of this machine is stopped according to the kernel: then it cannot answer."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    # The state follows the name, which is in parentheses and may contain anything.
    return status.rpartition(b") ")[2][:1] in _STOPPED


class HealthChecker:
    """Checks a worker periodically and records how fast it answers."""

    def __init__(
        self,
        worker: Worker,
        settings: HealthSettings,
        clock: Callable[[], float],
        is_last: Callable[[Worker], bool],
        is_stopped: Callable[[int], bool] = is_stopped,
    ) -> None:
        """`is_last`: whether a worker is the last of its models. `is_stopped`: whether a process is stopped."""
        self._worker = worker
        self._settings = settings
        self._clock = clock
        self._is_last = is_last
        self._is_stopped = is_stopped
        self._answer_timeout = AnswerTimeout(settings)

    async def run(self) -> None:
        """Checks until cancelled."""
        interval = self._settings.check_interval_seconds
        while True:
            began_at = self._clock()
            await asyncio.sleep(interval)
            late_seconds = self._clock() - began_at - interval
            if late_seconds > interval:
                # This process was frozen or busy: it could not listen either.
                self._worker.forgive_silence(late_seconds)
            await self.check()

    async def check(self) -> None:
        """Checks once: silence, a stalled engine, a probe that is due."""
        worker = self._worker
        if not worker.is_connected or worker.report is None:
            return
        if worker.breaker.is_open:
            await self._probe_if_due()
        elif await self._is_hung():
            silence = self._clock() - worker.last_seen_at
            reason = f"hangs: nothing has come from it for {silence:.1f} s"
            # A signal has stopped a stopped process, not one of its requests.
            worker.mark_hung(reason, blames=not self._is_process_stopped)
        elif (age := worker.step_age_seconds) > engine_stall_limit_seconds(worker.report, self._settings):
            worker.mark_hung(f"hangs: streams run, and its engine has made no step for {age:.1f} s")

    async def _is_hung(self) -> bool:
        """Returns whether the worker is silent and does not answer either; its Watch stream alone may have stopped."""
        settings, worker = self._settings, self._worker
        silent_seconds = self._clock() - worker.last_seen_at
        if silent_seconds <= settings.streaming_silence_seconds:
            return False
        # Streams that no other worker could take over gain nothing from a hasty verdict.
        is_last = self._is_last(worker)
        if not is_last and self._is_process_stopped:
            return True
        is_urgent = not is_last and any(lease.produced for lease in worker.incarnation.leases)
        if not is_urgent and silent_seconds <= settings.silence_seconds:
            return False
        timeout = self._answer_timeout.seconds(is_urgent=is_urgent, least_seconds=worker.least_answer_seconds)
        return self._is_process_stopped or not await self._shows_life(timeout)

    @property
    def _is_process_stopped(self) -> bool:
        worker = self._worker
        # The process id of another machine means nothing to this one's kernel.
        return worker.process.pid > 0 and is_local(worker.address) and self._is_stopped(worker.process.pid)

    async def _shows_life(self, timeout_seconds: float) -> bool:
        """Waits for an answer or any other sign of life; returns False at once when the process is stopped."""
        began_at = self._clock()
        answer = asyncio.create_task(self._answers(timeout_seconds), name=f"ask {self._worker.name}")
        try:
            while not answer.done():
                await asyncio.wait({answer}, timeout=self._settings.check_interval_seconds)
                if self._worker.last_seen_at > began_at:
                    return True
                if self._is_process_stopped:
                    return False
            return answer.result()
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)

    async def _answers(self, timeout_seconds: float) -> bool:
        """Returns whether the worker answers; also True when this process was too slow to decide."""
        began_at = self._clock()
        try:
            await self._worker.channel.worker.Describe(worker_pb2.DescribeRequest(), timeout=timeout_seconds)
        except grpc.aio.AioRpcError:
            was_late = self._clock() - began_at > 2 * timeout_seconds
            return was_late or self._worker.last_seen_at > began_at
        self._answer_timeout.record(self._clock() - began_at)
        self._worker.touch()
        return True

    async def _probe_if_due(self) -> None:
        worker = self._worker
        if worker.breaker.retry_in_seconds or worker.report is None:
            return
        if worker.report.state != worker_pb2.WORKER_STATE_READY:
            return
        incarnation = worker.incarnation
        failure = await self._failure_of_probe()
        if worker.incarnation is not incarnation:
            # It was restarted meanwhile: the probe says nothing about its present engine.
            return
        if failure is None:
            worker.mark_recovered()
        elif isinstance(failure, grpc.aio.AioRpcError) and failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # Other balancers keep it busy.
            worker.breaker.postpone()
        else:
            reason = failure.details() if isinstance(failure, grpc.aio.AioRpcError) else "no answer in time"
            worker.breaker.eject(f"a probe failed: {reason}")
            worker.update()

    async def _failure_of_probe(self) -> Exception | None:
        try:
            async with asyncio.timeout(self._settings.probe_timeout_seconds):
                await self._probe()
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            return error
        return None

    async def _probe(self) -> None:
        """Runs one real unit of work: a token, or a vector if the model only embeds."""
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
