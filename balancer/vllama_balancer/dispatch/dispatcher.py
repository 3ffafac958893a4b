"""Brings every request to its end on some worker: admit, call, relay, release; and again elsewhere.

The gateway that both front doors call, and the place where the parts behind it are put together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from random import Random
from typing import TYPE_CHECKING, Protocol, TypeVar

from vllama_balancer.dispatch.admission import Admission, AdmissionSettings
from vllama_balancer.dispatch.attempt import ask
from vllama_balancer.dispatch.generation import Generation
from vllama_balancer.dispatch.generation_stream import GenerationStreamer
from vllama_balancer.dispatch.placer import PlacementRequest, Placer
from vllama_balancer.dispatch.retry import RetryPolicy
from vllama_balancer.dispatch.retry_budget import RetryBudget
from vllama_balancer.errors import BalancerError, DeadlineExceeded, ModelNotFound, QueueFull
from vllama_balancer.names import model_key
from vllama_balancer.routing.request_size import EMPTY_SIZE, Estimates, measure_embedding, measure_generation
from vllama_balancer.workers.attempt_errors import AttemptFailed
from vllama_balancer.workers.discovery_grace import DiscoveryGrace
from vllama_protos.v1 import embedding_pb2, generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from vllama_balancer.dispatch.attempt import UnaryMethod
    from vllama_balancer.gateway import Call, ModelEntry
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.routing.policy import Policy
    from vllama_balancer.workers.channel import Channel
    from vllama_balancer.workers.pool import Pool

T = TypeVar("T")
R = TypeVar("R", embedding_pb2.EmbedRequest, generation_pb2.TokenizeRequest, generation_pb2.DetokenizeRequest)


class Catalog(Protocol):
    """Which models can be named."""

    def models(self) -> Sequence[ModelEntry]:
        """Lists them, newest first."""
        ...

    def find(self, name: str) -> ModelEntry | None:
        """Finds one by any spelling of its name."""
        ...

    async def search(self, name: str) -> ModelEntry | None:
        """Finds one as `find` does; one that is on its way is waited for."""
        ...


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
        """Takes its collaborators; `clock` must agree with the deadlines of calls (the event loop's)."""
        self._discovery_grace = discovery_grace or DiscoveryGrace(pool, clock=clock)
        self._pool = pool
        self._catalog = catalog
        self._metrics = metrics
        self._clock = clock
        self._rng = rng or Random()
        self._estimates = Estimates()
        self._in_flight = 0
        placer = Placer(pool, policy, RetryBudget(lambda: self._in_flight), metrics, self._rng)
        self._admission = Admission(pool, placer, metrics, admission or AdmissionSettings(), clock)
        self._retry_policy = RetryPolicy(pool, metrics)
        self._generation_streams = GenerationStreamer(
            pool, self._admission, self._retry_policy, self._estimates, metrics, clock
        )
        self._granter: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Dispatcher:
        """Begins to grant places whenever the pool changes."""
        self._granter = asyncio.create_task(self._grant_on_changes(), name="grant places")
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
        entry = await self._find(request.model, call)
        key = model_key(entry.name)
        size = measure_generation(request, self._estimates.of(key))
        placement_request = PlacementRequest(
            request.request_id or _new_id(),
            key,
            call.client or request.session,
            size,
            request.session,
            request.priority,
        )
        generation = Generation(entry.name, request, placement_request, call, self._rng, self._clock())
        with self._counted(entry.name):
            async with contextlib.aclosing(self._generation_streams.run(generation)) as events:
                async for event in events:
                    yield event

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """Embeds texts."""
        entry = await self._find(request.model, call)
        key = model_key(entry.name)
        size = measure_embedding(request, self._estimates.of(key))
        placement_request = PlacementRequest(request.request_id or _new_id(), key, call.client, size)
        with self._counted(entry.name):
            return await self._ask(request, placement_request, call, lambda channel: channel.embedding.Embed)

    async def tokenize(self, request: generation_pb2.TokenizeRequest, call: Call) -> generation_pb2.TokenizeResponse:
        """Renders and tokenizes, on any worker of the model, however busy it is."""
        placement_request = await self._unmetered_request(request.model, call)
        return await self._ask(request, placement_request, call, lambda channel: channel.generation.Tokenize)

    async def detokenize(
        self, request: generation_pb2.DetokenizeRequest, call: Call
    ) -> generation_pb2.DetokenizeResponse:
        """Turns token ids into text, on any worker of the model, however busy it is."""
        placement_request = await self._unmetered_request(request.model, call)
        return await self._ask(request, placement_request, call, lambda channel: channel.generation.Detokenize)

    def models(self) -> Sequence[ModelEntry]:
        """Lists the models that can be named, newest first. Cheap: no I/O."""
        return self._catalog.models()

    def find(self, name: str) -> ModelEntry | None:
        """Finds a model by any spelling of its name that names.py treats as the same."""
        return self._catalog.find(name)

    def expect_room(self, name: str) -> None:
        """Raises QueueFull when a request for this model would be refused now."""
        try:
            self._admission.expect_room(model_key(name))
        except QueueFull as error:
            # Who asks before anything is known of the request has not looked for its model either.
            self._metrics.refused(error.reason)
            raise

    async def search(self, name: str, deadline: float | None = None) -> ModelEntry | None:
        """Finds a model as `find` does; one that is on its way is waited for. Raises DeadlineExceeded, NoWorker."""
        try:
            async with asyncio.timeout_at(deadline):
                entry = await self._catalog.search(name)
        except TimeoutError:
            raise DeadlineExceeded(f"the deadline passed before model {name!r} was known") from None
        return entry or await self._discovery_grace.bring(name, self._catalog.find, deadline)

    # -- one request -----------------------------------------------------------------------

    async def _find(self, name: str, call: Call) -> ModelEntry:
        entry = self._catalog.find(name) or await self.search(name, call.deadline)
        if entry is None:
            raise ModelNotFound(f"model {name!r} not found", field="model")
        return entry

    async def _unmetered_request(self, model: str, call: Call) -> PlacementRequest:
        """Makes the placement_request of a call that computes nothing."""
        return PlacementRequest(_new_id(), model_key((await self._find(model, call)).name), "", EMPTY_SIZE)

    @contextlib.contextmanager
    def _counted(self, model: str) -> Iterator[None]:
        """Counts a request in and, whatever becomes of it, out."""
        self._in_flight += 1
        self._metrics.arrived()
        outcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except BalancerError as error:
            outcome = error.reason
            raise
        finally:
            self._in_flight -= 1
            self._metrics.ended(model, outcome)

    async def _ask(
        self,
        request: R,
        placement_request: PlacementRequest,
        call: Call,
        method: Callable[[Channel], UnaryMethod[R, T]],
    ) -> T:
        """Has a unary call answered; it may be asked anew anywhere, as it changes nothing."""
        named = type(request)()
        named.CopyFrom(request)
        failures = 0
        while True:
            lease = self._admission.place_unmetered(placement_request) if placement_request.size is EMPTY_SIZE else None
            lease = lease or await self._admission.admit(placement_request, call.deadline)
            try:
                named.model = lease.worker.name_of(placement_request.key)
                answering = method(lease.worker.channel)(named, timeout=call.remaining_seconds(self._clock()))
                answer = await ask(lease, answering)
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
            self._admission.grant_places()


def _new_id() -> str:
    return uuid.uuid4().hex
