"""Runs single generations: one loop over tries, each with one lease that is released whatever happens."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from vllama_balancer.dispatch.attempt import confirm_life, stream_generation
from vllama_balancer.dispatch.failure import AttemptFailed, FailureKind

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from vllama_balancer.dispatch.admission import Admission
    from vllama_balancer.dispatch.failover import Failover
    from vllama_balancer.dispatch.journey import Journey
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.placement.estimates import Estimates
    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.pool import Pool
    from vllama_protos.v1 import generation_pb2

logger = logging.getLogger(__name__)

_LEVELS = {
    FailureKind.REJECTED: logging.DEBUG,
    FailureKind.DEADLINE: logging.DEBUG,
    FailureKind.BUSY: logging.INFO,
    FailureKind.REFUSED: logging.INFO,
}
"""How loud a failed try is; what is not here warns."""


class Generations:
    """Brings journeys to their end."""

    def __init__(
        self,
        pool: Pool,
        admission: Admission,
        failover: Failover,
        estimates: Estimates,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._admission = admission
        self._failover = failover
        self._estimates = estimates
        self._metrics = metrics
        self._clock = clock

    async def run(self, journey: Journey) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Yields what the client gets; closing it ends the generation wherever it runs.

        Raises the BalancerError that ends it when no further try can help.
        """
        while not journey.is_finished:
            lease = await self._place(journey)
            try:
                async with contextlib.aclosing(self._try(journey, lease)) as events:
                    async for event in events:
                        yield event
            except AttemptFailed as failure:
                self._judge(journey, lease, failure)
            finally:
                self._admission.release(lease)

    async def _place(self, journey: Journey) -> Lease:
        asked_at = self._clock()
        is_loading = not self._pool.is_served(journey.ticket.key)
        lease = await self._admission.admit(journey.ticket, journey.call.deadline)
        waited = self._clock() - asked_at
        journey.waited(waited, is_loading=is_loading)
        self._metrics.waited(waited)
        return lease

    async def _try(self, journey: Journey, lease: Lease) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Relays one try's events, as far as the client has not had them."""
        if lease.is_wary:
            await confirm_life(lease)
        if journey.failed_since is not None:
            self._metrics.rerouted(self._clock() - journey.failed_since)
            journey.failed_since = None
        request = journey.next_request(lease.worker.name_of(journey.ticket.key))
        timeout = journey.call.remaining_seconds(self._clock())
        async with contextlib.aclosing(stream_generation(lease, request, timeout)) as events:
            async for response in events:
                if response.HasField("delta"):
                    if not lease.produced:
                        self._first_token(journey, lease)
                elif response.HasField("started"):
                    self._started(journey, lease, response.started)
                else:
                    self._finish(journey, lease, response)
                relayed = journey.relay(response)
                if relayed is not None:
                    yield relayed

    def _started(self, journey: Journey, lease: Lease, started: generation_pb2.Started) -> None:
        self._metrics.cache_answered(lease.believed_tokens, started.cached_prompt_tokens)
        lease.started(started.prompt_tokens, started.cached_prompt_tokens)
        if journey.silent_since is not None:
            self._metrics.resumed(self._clock() - journey.silent_since)
            journey.silent_since = None
        if not journey.is_started:
            size, key = journey.ticket.size, journey.ticket.key
            self._estimates.of(key).tokenized(size.prompt_bytes, started.prompt_tokens)
            journey.call.placement.worker = lease.worker.name
            journey.call.placement.reason = lease.choice.reason

    def _first_token(self, journey: Journey, lease: Lease) -> None:
        self._admission.first_token(lease)
        journey.ticket.has_output = True
        if journey.first_token_at is None:
            journey.first_token_at = self._clock()
            self._metrics.first_token(journey.model, journey.first_token_at - journey.arrived_at)

    def _finish(self, journey: Journey, lease: Lease, response: generation_pb2.GenerateResponse) -> None:
        now = self._clock()
        journey.finish(response, now)
        lease.worker.breaker.success()
        lease.answered(journey.spoken())
        usage = response.finished.usage
        self._estimates.of(journey.ticket.key).finished(usage.completion_tokens)
        self._metrics.finished(journey.model, usage, now - (journey.first_token_at or now))

    def _judge(self, journey: Journey, lease: Lease, failure: AttemptFailed) -> None:
        """Prepares the next try, or raises the error that ends the generation."""
        logger.log(
            _LEVELS.get(failure.kind, logging.WARNING),
            "request %s failed on %s (%s): %s",
            journey.ticket.request_id,
            lease.worker.name,
            failure.kind.value,
            failure,
        )
        # The worker may have been heard once more since it was given up.
        journey.failed_since = min(lease.worker.heard_at, self._clock())
        if journey.silent_since is None:
            journey.silent_since = journey.failed_since
        self._failover.judge_worker(lease, failure)
        journey.failures = self._failover.next_try(journey.ticket, lease, failure, journey.failures)
        self._metrics.moved(had_output=journey.has_output)
        journey.moved()
