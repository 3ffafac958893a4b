"""Brings every request to its end on some worker: admit, call, relay, release; and again elsewhere.

The gateway that both front doors call. One generation is one loop over tries; a try holds one
lease, which is released in one place whatever happens, and a try that fails either prepares the
next one or ends the generation with one error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from random import Random
from typing import TYPE_CHECKING, Protocol, TypeVar

from vllama_balancer.admission import Admission, AdmissionSettings
from vllama_balancer.attempt import ask, stream_generation
from vllama_balancer.errors import BalancerError, ModelNotFound
from vllama_balancer.estimates import Estimates
from vllama_balancer.failover import Failover
from vllama_balancer.failure import AttemptFailed
from vllama_balancer.journey import Journey
from vllama_balancer.measure import NOTHING, measure_embedding, measure_generation
from vllama_balancer.model_key import model_key
from vllama_balancer.placement import Placer, Ticket
from vllama_balancer.retry_budget import RetryBudget
from vllama_protos.v1 import embedding_pb2, generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from vllama_balancer.attempt import UnaryCall
    from vllama_balancer.gateway import Call, ModelEntry
    from vllama_balancer.lease import Lease
    from vllama_balancer.measure import Size
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.policies.policy import Policy
    from vllama_balancer.pool import Pool

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Catalog(Protocol):
    """Which models can be named."""

    def models(self) -> Sequence[ModelEntry]:
        """Lists them, newest first."""
        ...

    def find(self, name: str) -> ModelEntry | None:
        """Finds one by any spelling of its name."""
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
    ) -> None:
        """Takes its collaborators; `clock` must agree with the deadlines of calls (the event loop's)."""
        self._pool = pool
        self._catalog = catalog
        self._metrics = metrics
        self._clock = clock
        self._rng = rng or Random()
        self._estimates = Estimates()
        self._in_flight = 0
        placer = Placer(pool, policy, RetryBudget(lambda: self._in_flight), metrics, self._rng)
        self._admission = Admission(pool, placer, metrics, admission or AdmissionSettings(), clock)
        self._failover = Failover(pool, metrics)
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
        self._failover.close()

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
        entry = self._find(request.model)
        key = model_key(entry.name)
        size = measure_generation(request, self._estimates.of(key))
        ticket = self._ticket(request.request_id, key, call, size, request.session)
        journey = Journey(request, ticket, call, self._rng, self._clock())
        with self._counted(entry.name):
            while not journey.is_finished:
                lease = await self._place(journey)
                try:
                    async with contextlib.aclosing(self._try(journey, lease, entry.name)) as events:
                        async for event in events:
                            yield event
                except AttemptFailed as failure:
                    self._judge(journey, lease, failure)
                finally:
                    self._admission.release(lease)

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """Embeds texts."""
        entry = self._find(request.model)
        key = model_key(entry.name)
        size = measure_embedding(request, self._estimates.of(key))
        ticket = self._ticket(request.request_id, key, call, size)
        named = embedding_pb2.EmbedRequest()
        named.CopyFrom(request)
        named.request_id = ticket.request_id

        def invoke(lease: Lease, timeout: float | None) -> UnaryCall[embedding_pb2.EmbedResponse]:
            named.model = lease.worker.name_of(key)
            return lease.worker.channel.embedding.Embed(named, timeout=timeout)

        with self._counted(entry.name):
            return await self._ask(ticket, call, invoke)

    async def tokenize(self, request: generation_pb2.TokenizeRequest, call: Call) -> generation_pb2.TokenizeResponse:
        """Renders and tokenizes, on any worker of the model, however busy it is."""
        key = model_key(self._find(request.model).name)
        named = generation_pb2.TokenizeRequest()
        named.CopyFrom(request)

        def invoke(lease: Lease, timeout: float | None) -> UnaryCall[generation_pb2.TokenizeResponse]:
            named.model = lease.worker.name_of(key)
            return lease.worker.channel.generation.Tokenize(named, timeout=timeout)

        return await self._ask(self._ticket("", key, call, NOTHING), call, invoke)

    async def detokenize(
        self, request: generation_pb2.DetokenizeRequest, call: Call
    ) -> generation_pb2.DetokenizeResponse:
        """Turns token ids into text, on any worker of the model, however busy it is."""
        key = model_key(self._find(request.model).name)
        named = generation_pb2.DetokenizeRequest()
        named.CopyFrom(request)

        def invoke(lease: Lease, timeout: float | None) -> UnaryCall[generation_pb2.DetokenizeResponse]:
            named.model = lease.worker.name_of(key)
            return lease.worker.channel.generation.Detokenize(named, timeout=timeout)

        return await self._ask(self._ticket("", key, call, NOTHING), call, invoke)

    def models(self) -> Sequence[ModelEntry]:
        """Lists the models that can be named, newest first. Cheap: no I/O."""
        return self._catalog.models()

    def find(self, name: str) -> ModelEntry | None:
        """Finds a model by any spelling of its name that names.py treats as the same."""
        return self._catalog.find(name)

    # -- one request -----------------------------------------------------------------------

    def _find(self, name: str) -> ModelEntry:
        entry = self._catalog.find(name)
        if entry is None:
            raise ModelNotFound(f"model {name!r} not found", field="model")
        return entry

    @staticmethod
    def _ticket(request_id: str, key: str, call: Call, size: Size, session: str = "") -> Ticket:
        return Ticket(request_id or uuid.uuid4().hex, key, call.client or session, size, session)

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

    async def _place(self, journey: Journey) -> Lease:
        asked_at = self._clock()
        is_loading = not self._pool.is_served(journey.ticket.key)
        lease = await self._admission.admit(journey.ticket, journey.call.deadline)
        waited = self._clock() - asked_at
        journey.waited(waited, is_loading=is_loading)
        self._metrics.waited(waited)
        return lease

    async def _try(
        self, journey: Journey, lease: Lease, model: str
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Relays one try's events, as far as the client has not had them."""
        request = journey.next_request(lease.worker.name_of(journey.ticket.key))
        async with contextlib.aclosing(stream_generation(lease, request, self._remaining(journey.call))) as events:
            async for response in events:
                if response.HasField("delta"):
                    if not lease.produced:
                        self._first_token(journey, lease, model)
                elif response.HasField("started"):
                    self._started(journey, lease, response.started)
                else:
                    self._finish(journey, lease, response, model)
                relayed = journey.relay(response)
                if relayed is not None:
                    yield relayed

    def _started(self, journey: Journey, lease: Lease, started: generation_pb2.Started) -> None:
        self._metrics.cache_answered(lease.believed_tokens, started.cached_prompt_tokens)
        lease.started(started.prompt_tokens, started.cached_prompt_tokens)
        if not journey.is_started:
            size, key = journey.ticket.size, journey.ticket.key
            self._estimates.of(key).tokenized(size.prompt_bytes, started.prompt_tokens)
            journey.call.placement.worker = lease.worker.name
            journey.call.placement.reason = lease.choice.reason

    def _first_token(self, journey: Journey, lease: Lease, model: str) -> None:
        self._admission.first_token(lease)
        if journey.first_token_at is None:
            journey.first_token_at = self._clock()
            self._metrics.first_token(model, journey.first_token_at - journey.arrived_at)

    def _finish(self, journey: Journey, lease: Lease, response: generation_pb2.GenerateResponse, model: str) -> None:
        now = self._clock()
        journey.finish(response, now)
        lease.worker.breaker.success()
        usage = response.finished.usage
        self._estimates.of(journey.ticket.key).finished(usage.completion_tokens)
        self._metrics.finished(model, usage, now - (journey.first_token_at or now))

    def _judge(self, journey: Journey, lease: Lease, failure: AttemptFailed) -> None:
        """Prepares the next try, or raises the error that ends the generation."""
        ticket = journey.ticket
        logger.warning(
            "request %s failed on %s (%s): %s", ticket.request_id, lease.worker.name, failure.kind.value, failure
        )
        self._failover.judge_worker(lease, failure)
        journey.failures = self._failover.next_try(ticket, lease, failure, journey.failures)
        self._metrics.moved(had_output=journey.has_output)
        journey.moved()

    async def _ask(self, ticket: Ticket, call: Call, invoke: Callable[[Lease, float | None], UnaryCall[T]]) -> T:
        """Has a unary call answered; it may be asked anew anywhere, as it changes nothing."""
        failures = 0
        while True:
            lease = self._admission.visit(ticket) if ticket.size is NOTHING else None
            lease = lease or await self._admission.admit(ticket, call.deadline)
            try:
                answer = await ask(lease, invoke(lease, self._remaining(call)))
                lease.worker.breaker.success()
                return answer
            except AttemptFailed as failure:
                self._failover.judge_worker(lease, failure)
                failures = self._failover.next_try(ticket, lease, failure, failures)
                self._metrics.moved(had_output=False)
            finally:
                self._admission.release(lease)

    def _remaining(self, call: Call) -> float | None:
        return None if call.deadline is None else max(call.deadline - self._clock(), 0.001)

    async def _grant_on_changes(self) -> None:
        version = 0
        while True:
            version = await self._pool.changes.after(version)
            self._admission.grant_places()
