"""Streams single generations: one loop over attempts, each with one lease that is always released."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from vllama_balancer.dispatch.attempt import check_liveness, stream_generation
from vllama_balancer.workers.attempt_errors import AttemptFailed, FailureKind

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from vllama_balancer.dispatch.admission import Admission
    from vllama_balancer.dispatch.generation import Generation
    from vllama_balancer.dispatch.retry import RetryPolicy
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.routing.request_size import Estimates
    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker
    from vllama_protos.v1 import generation_pb2

logger = logging.getLogger(__name__)

NEAR_CONTEXT = 0.9
"""A prompt that fills this share of the context may have been cut to fit."""

_LEVELS = {
    FailureKind.REJECTED: logging.DEBUG,
    FailureKind.DEADLINE: logging.DEBUG,
    FailureKind.BUSY: logging.INFO,
    FailureKind.REFUSED: logging.INFO,
    FailureKind.LEFT: logging.INFO,
}
"""Log levels of failed attempts; WARNING for all others."""


class GenerationStreamer:
    """Runs generations to their end."""

    def __init__(
        self,
        pool: Pool,
        admission: Admission,
        retry_policy: RetryPolicy,
        estimates: Estimates,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._admission = admission
        self._retry_policy = retry_policy
        self._estimates = estimates
        self._metrics = metrics
        self._clock = clock

    async def run(self, generation: Generation) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Yields the client's events; closing it ends the generation wherever it runs.

        Raises the BalancerError that ends it when no further attempt can help.
        """
        while not generation.is_finished:
            lease = await self._place(generation)
            try:
                async with contextlib.aclosing(self._attempt(generation, lease)) as events:
                    async for event in events:
                        yield event
            except AttemptFailed as failure:
                self._handle_failure(generation, lease, failure)
            finally:
                self._admission.release(lease)

    async def _place(self, generation: Generation) -> Lease:
        asked_at = self._clock()
        is_loading = not self._pool.is_served(generation.placement_request.key)
        lease = await self._admission.admit(generation.placement_request, generation.call.deadline)
        waited = self._clock() - asked_at
        generation.record_wait(waited, is_loading=is_loading)
        self._metrics.waited(waited)
        return lease

    async def _attempt(
        self, generation: Generation, lease: Lease
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Yields those events of one attempt that the client does not have yet."""
        if lease.needs_liveness_check:
            await check_liveness(lease)
        if generation.failed_since is not None:
            self._metrics.rerouted(self._clock() - generation.failed_since)
            generation.failed_since = None
        request = generation.next_request(lease.worker.name_of(generation.placement_request.key))
        timeout = generation.call.remaining_seconds(self._clock())
        async with contextlib.aclosing(stream_generation(lease, request, timeout)) as events:
            async for kind, response in events:
                if kind == "delta":
                    if not lease.has_progress:
                        self._progress(generation, lease, len(response.delta.token_ids))
                elif kind == "started":
                    self._started(generation, lease, response.started)
                else:
                    self._finish(generation, lease, response)
                delivered = generation.deliver(kind, response)
                if delivered is not None:
                    yield delivered

    def _started(self, generation: Generation, lease: Lease, started: generation_pb2.Started) -> None:
        self._metrics.cache_answered(lease.predicted_cached_tokens, started.cached_prompt_tokens)
        lease.started(started.prompt_tokens, started.cached_prompt_tokens)
        if generation.stalled_since is not None:
            self._metrics.resumed(self._clock() - generation.stalled_since)
            generation.stalled_since = None
        if not generation.is_started:
            size, key = generation.placement_request.size, generation.placement_request.key
            if not _was_cut(lease.worker, started):
                self._estimates.of(key).tokenized(size.prompt_bytes, started.prompt_tokens)
            generation.call.placement.worker = lease.worker.name
            generation.call.placement.reason = lease.choice.reason

    def _progress(self, generation: Generation, lease: Lease, tokens: int) -> None:
        """Follows a stream until it has made real progress on its worker, which forgives earlier crashes."""
        if not lease.produced:
            self._first_token(generation, lease)
        was_underway = lease.is_underway
        lease.record_tokens(tokens)
        if lease.has_progress:
            generation.placement_request.crash_count = lease.crash_count = 0
        if lease.is_underway and not was_underway:
            self._admission.underway(lease)

    def _first_token(self, generation: Generation, lease: Lease) -> None:
        self._admission.first_token(lease)
        generation.placement_request.has_output = True
        if generation.first_token_at is None:
            generation.first_token_at = self._clock()
            self._metrics.first_token(generation.model, generation.first_token_at - generation.arrived_at)

    def _finish(self, generation: Generation, lease: Lease, response: generation_pb2.GenerateResponse) -> None:
        now = self._clock()
        generation.finish(response, now)
        lease.record_answer()
        lease.worker.breaker.success()
        lease.record_cached_prefix(generation.cached_prefix())
        usage = response.finished.usage
        self._estimates.of(generation.placement_request.key).finished(usage.completion_tokens)
        self._metrics.finished(generation.model, usage, now - (generation.first_token_at or now))

    def _handle_failure(self, generation: Generation, lease: Lease, failure: AttemptFailed) -> None:
        """Prepares the next attempt, or raises the error that ends the generation."""
        logger.log(
            _LEVELS.get(failure.kind, logging.WARNING),
            "request %s failed on %s (%s): %s",
            generation.placement_request.request_id,
            lease.worker.name,
            failure.kind.value,
            failure,
        )
        # The worker may have shown life once more since it was given up.
        generation.failed_since = min(lease.worker.last_seen_at, self._clock())
        if generation.stalled_since is None:
            generation.stalled_since = generation.failed_since
        self._retry_policy.penalise_worker(lease, failure)
        generation.failures = self._retry_policy.prepare_retry(
            generation.placement_request, lease, failure, generation.failures
        )
        self._metrics.moved(had_output=generation.has_output)
        generation.record_retry()


def _was_cut(worker: Worker, started: generation_pb2.Started) -> bool:
    """Returns whether the worker may have tokenized less than was sent."""
    context = worker.context_tokens
    return bool(started.dropped_messages) or bool(context and started.prompt_tokens >= NEAR_CONTEXT * context)
