"""The Gateway on a pool of workers: admits each request, calls a worker, relays its events, and retries elsewhere.

Both front doors call it. It also assembles the parts behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from random import Random
from typing import TYPE_CHECKING, TypeVar

from vllama_balancer.dispatch.admission import Admission, AdmissionSettings
from vllama_balancer.dispatch.attempt import call_unary, check_liveness
from vllama_balancer.dispatch.generation import Generation
from vllama_balancer.dispatch.generation_stream import GenerationStreamer
from vllama_balancer.dispatch.placement_request import PlacementRequest
from vllama_balancer.dispatch.placer import Placer
from vllama_balancer.dispatch.retry import RetryPolicy
from vllama_balancer.dispatch.retry_budget import RetryBudget
from vllama_balancer.errors import DeadlineExceeded, ModelNotFound, QueueFull, outcome_of
from vllama_balancer.names import model_key
from vllama_balancer.routing.request_size import EMPTY_SIZE, Estimates, measure_embedding, measure_generation
from vllama_balancer.workers.attempt_errors import AttemptFailed
from vllama_balancer.workers.discovery_grace import DiscoveryGrace
from vllama_protos.v1 import embedding_pb2, generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    import grpc

    from vllama_balancer.gateway import Call, ModelEntry
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.models.catalog import Catalog
    from vllama_balancer.routing.policy import Policy
    from vllama_balancer.workers.channel import Channel
    from vllama_balancer.workers.pool import Pool

T = TypeVar("T")
R = TypeVar("R", embedding_pb2.EmbedRequest, generation_pb2.TokenizeRequest, generation_pb2.DetokenizeRequest)


class Dispatcher:
    """Implements `gateway.Gateway` on a pool of workers. Enter it as a context for as long as it serves."""

    def __init__(
        self,
        pool: Pool,
        catalog: Catalog,
        policy: Policy,
        metrics: Metrics,
        admission: AdmissionSettings | None = None,
        rng: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        discovery_grace: DiscoveryGrace | None = None,
    ) -> None:
        """`clock` must agree with the deadlines of calls (the event loop's)."""
        self._discovery_grace = discovery_grace or DiscoveryGrace(pool, clock=clock)
        self._pool = pool
        self._catalog = catalog
        self._metrics = metrics
        self._clock = clock
        self._rng = rng or Random()
        self._estimates = Estimates()
        self._in_flight = 0
        settings = admission or AdmissionSettings()
        budget = RetryBudget(lambda: self._in_flight)
        placer = Placer(pool, policy, budget, metrics, self._rng, settings.calm_seconds)
        self._admission = Admission(pool, placer, metrics, settings, clock)
        self._retry_policy = RetryPolicy(pool, metrics)
        self._streamer = GenerationStreamer(pool, self._admission, self._retry_policy, self._estimates, metrics, clock)
        self._granter: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Dispatcher:
        """Begins to grant leases whenever the pool changes."""
        self._granter = asyncio.create_task(self._grant_on_changes(), name="grant leases")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends the granting; generations that still run are their callers' to close."""
        if self._granter is not None:
            self._granter.cancel()
            await asyncio.gather(self._granter, return_exceptions=True)
        self._retry_policy.close()

    @property
    def in_flight(self) -> int:
        """Requests inside, waiting or running."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return self._admission.waiting

    # -- the gateway -----------------------------------------------------------------------

    async def generate(
        self, request: generation_pb2.GenerateRequest, call: Call
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Yields `started`, deltas, then `finished`; closing the generator ends the generation.

        Raises before the first event when the request is refused, after it when the generation
        cannot be brought to its end.
        """
        model = await self._model(request.model, call)
        key = model_key(model)
        size = measure_generation(request, self._estimates.of(key))
        placement_request = PlacementRequest(
            request.request_id or _new_id(),
            key,
            call.client or request.session,
            size,
            request.session,
            request.priority,
            excluded=self._pool.too_short_for(key, size.prompt_tokens),
        )
        generation = Generation(model, request, placement_request, call, self._rng, self._clock())
        with self._counted(model):
            async with contextlib.aclosing(self._streamer.run(generation)) as events:
                async for event in events:
                    yield event

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """Embeds texts."""
        model = await self._model(request.model, call)
        key = model_key(model)
        size = measure_embedding(request, self._estimates.of(key))
        placement_request = PlacementRequest(request.request_id or _new_id(), key, call.client, size)
        with self._counted(model):
            return await self._call_unary(request, placement_request, call, lambda channel: channel.embedding.Embed)

    async def tokenize(self, request: generation_pb2.TokenizeRequest, call: Call) -> generation_pb2.TokenizeResponse:
        """Renders and tokenizes, on any worker of the model, however busy it is."""
        placement_request = await self._unmetered_request(request.model, call)
        return await self._call_unary(request, placement_request, call, lambda channel: channel.generation.Tokenize)

    async def detokenize(
        self, request: generation_pb2.DetokenizeRequest, call: Call
    ) -> generation_pb2.DetokenizeResponse:
        """Turns token ids into text, on any worker of the model, however busy it is."""
        placement_request = await self._unmetered_request(request.model, call)
        return await self._call_unary(request, placement_request, call, lambda channel: channel.generation.Detokenize)

    def models(self) -> Sequence[ModelEntry]:
        """Returns the models that can be named, newest first. Cheap: no I/O."""
        return self._catalog.models()

    def find(self, name: str) -> ModelEntry | None:
        """Returns a model by any spelling of its name that names.py treats as the same."""
        return self._catalog.find(name)

    def raise_if_full(self, name: str) -> None:
        """Raises QueueFull when a request for this model would be refused now."""
        try:
            self._admission.raise_if_full(model_key(name))
        except QueueFull as error:
            # At this point the model has not been looked up either.
            self._metrics.refused(error.reason)
            raise

    async def find_or_wait(self, name: str, deadline: float | None = None) -> ModelEntry | None:
        """Returns a model as `find` does, and waits for one that is expected. Raises DeadlineExceeded, NoWorker."""
        try:
            async with asyncio.timeout_at(deadline):
                entry = await self._catalog.find_or_wait(name)
        except TimeoutError:
            raise DeadlineExceeded(f"the deadline passed before model {name!r} was known") from None
        return entry or await self._discovery_grace.find(name, self._catalog.find, deadline)

    # -- one request -----------------------------------------------------------------------

    async def _model(self, name: str, call: Call) -> str:
        """Returns the display name of the model that workers serve. Raises ModelNotFound, or as `find_or_wait`."""
        entry = call.model or self._catalog.find(name) or await self.find_or_wait(name, call.deadline)
        if entry is None:
            raise ModelNotFound(f"model {name!r} not found", field="model")
        return entry.target or entry.name

    async def _unmetered_request(self, model: str, call: Call) -> PlacementRequest:
        """Returns the placement request of a call that computes nothing."""
        return PlacementRequest(_new_id(), model_key(await self._model(model, call)), "", EMPTY_SIZE)

    @contextlib.contextmanager
    def _counted(self, model: str) -> Iterator[None]:
        """Counts a request in, and out with its outcome."""
        self._in_flight += 1
        self._metrics.arrived()
        outcome = "ok"
        try:
            yield
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._in_flight -= 1
            self._metrics.ended(model, outcome)

    async def _call_unary(
        self,
        request: R,
        placement_request: PlacementRequest,
        call: Call,
        method: Callable[[Channel], grpc.aio.UnaryUnaryMultiCallable[R, T]],
    ) -> T:
        """Returns the answer of a unary call; it may be retried anywhere, as it changes nothing."""
        failures = 0
        while True:
            is_unmetered = placement_request.size is EMPTY_SIZE and not placement_request.needs_trial
            lease = self._admission.place_unmetered(placement_request) if is_unmetered else None
            lease = lease or await self._admission.admit(placement_request, call.deadline)
            try:
                if lease.needs_liveness_check:
                    await check_liveness(lease)
                request.model = lease.worker.name_of(placement_request.key)
                running = method(lease.worker.channel)(request, timeout=call.remaining_seconds(self._clock()))
                answer = await call_unary(lease, running)
                lease.record_answer()
                lease.worker.breaker.success()
                return answer
            except AttemptFailed as failure:
                self._retry_policy.penalise_worker(lease, failure)
                failures = self._retry_policy.prepare_retry(placement_request, lease, failure, failures)
                self._metrics.moved(had_output=False)
            finally:
                self._admission.release(lease)

    async def _grant_on_changes(self) -> None:
        version = 0
        while True:
            version = await self._pool.changes.after(version)
            self._admission.grant()


def _new_id() -> str:
    return uuid.uuid4().hex
