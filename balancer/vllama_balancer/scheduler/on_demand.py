"""The Gateway that loads models on demand: it stands between the front doors and the dispatcher."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry

from vllama_balancer.errors import ModelNotFound, outcome_of
from vllama_balancer.metrics import Metrics
from vllama_balancer.names import model_key
from vllama_protos.v1 import fleet_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.gateway import Call, Gateway, ModelEntry
    from vllama_balancer.scheduler.scheduler import ModelScheduler
    from vllama_protos.v1 import embedding_pb2, generation_pb2

    ModelRequest = (
        generation_pb2.GenerateRequest
        | embedding_pb2.EmbedRequest
        | generation_pb2.TokenizeRequest
        | generation_pb2.DetokenizeRequest
    )

NOTICEABLE_SECONDS = 0.01
"""A request that waited for less time found its model loaded."""


class HostedModels(Protocol):
    """The part of the catalog that the scheduler reads."""

    def expects(self, name: str) -> bool:
        """Returns whether a model is being installed."""
        ...

    def hosted(self, name: str) -> HostedModel | None:
        """Returns what a worker hosts for a model or alias; None when that is not installed here."""
        ...


class OnDemand:
    """A Gateway that keeps the model of each request loaded while it runs, and the edge's Residency."""

    def __init__(
        self,
        gateway: Gateway,
        catalog: HostedModels,
        scheduler: ModelScheduler,
        clock: Callable[[], float] = time.monotonic,
        *,
        metrics: Metrics | None = None,
    ) -> None:
        self._gateway = gateway
        self._catalog = catalog
        self._scheduler = scheduler
        self._clock = clock
        self._metrics = metrics or Metrics(CollectorRegistry())
        self.loading = 0
        """Requests that wait for their model to be installed or loaded."""

    async def generate(
        self, request: generation_pb2.GenerateRequest, call: Call
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Loads the model, then yields the dispatcher's events; the last one reports how long the load took."""
        asked_at = self._clock()
        async with self._loaded(request, call), aclosing(self._gateway.generate(request, call)) as events:
            load_seconds = self._clock() - asked_at
            async for event in events:
                if load_seconds >= NOTICEABLE_SECONDS and event.HasField("finished"):
                    event.finished.timings.load.FromNanoseconds(int(load_seconds * 1e9))
                yield event

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """Loads the model, then embeds."""
        async with self._loaded(request, call):
            return await self._gateway.embed(request, call)

    async def tokenize(self, request: generation_pb2.TokenizeRequest, call: Call) -> generation_pb2.TokenizeResponse:
        """Loads the model, then tokenizes."""
        async with self._loaded(request, call):
            return await self._gateway.tokenize(request, call)

    async def detokenize(
        self, request: generation_pb2.DetokenizeRequest, call: Call
    ) -> generation_pb2.DetokenizeResponse:
        """Loads the model, then turns ids into text."""
        async with self._loaded(request, call):
            return await self._gateway.detokenize(request, call)

    def models(self) -> Sequence[ModelEntry]:
        """Lists the models that a request can name."""
        return self._gateway.models()

    def find(self, name: str) -> ModelEntry | None:
        """Returns a model by any spelling of its name."""
        return self._gateway.find(name)

    def raise_if_full(self, name: str) -> None:
        """Asks the dispatcher if the model is loaded; requests for one that is not wait for the load first."""
        if self._scheduler.is_loaded(model_key(name)):
            self._gateway.raise_if_full(name)

    async def find_or_wait(self, name: str, deadline: float | None = None) -> ModelEntry | None:
        """Returns a model, after it has been installed; that wait is bounded as one for a load is."""
        if not self._catalog.expects(name):
            return await self._gateway.find_or_wait(name, deadline)
        async with self._scheduler.waiting(deadline):
            return await self._gateway.find_or_wait(name)

    async def load(self, name: str, keep_alive_seconds: float | None) -> None:
        """Returns once the model can serve. Raises ModelNotFound, NoWorker."""
        if (hosted := await self._hosted(name)) is None:
            raise ModelNotFound(f"model '{name}' not found", field="model")
        key = _key(hosted)
        if keep_alive_seconds is not None:
            self._scheduler.keep(key, keep_alive_seconds)
        async with self._scheduler.in_use(key, hosted):
            return

    async def unload(self, name: str) -> None:
        """Unloads the model once it is idle; never loads it."""
        await self._scheduler.unload(self._key(name))

    async def unload_model(self, name: str) -> fleet_pb2.UnloadModelResponse:
        """Unloads a model, a pinned one too, once it is idle; its next request loads it again. Raises ModelNotFound."""
        if (hosted := self._catalog.hosted(name)) is None:
            raise ModelNotFound(f"model '{name}' not found", field="model")
        outcome = await self._scheduler.unload(_key(hosted), even_pinned=True)
        return fleet_pb2.UnloadModelResponse(model=hosted.names[0], outcome=outcome)

    def keep(self, name: str, keep_alive_seconds: float) -> None:
        """Replaces how long the model stays after its last request."""
        self._scheduler.keep(self._key(name), keep_alive_seconds)

    @asynccontextmanager
    async def _loaded(self, request: ModelRequest, call: Call) -> AsyncIterator[None]:
        """Keeps the model of a request loaded, and puts the model that its workers serve in the place of an alias."""
        async with AsyncExitStack() as in_use:
            with self._counted(request.model):
                hosted = await self._hosted(request.model, call.deadline)
                if hosted is not None:
                    request.model = hosted.names[0]
                    await in_use.enter_async_context(self._scheduler.in_use(_key(hosted), hosted, call.deadline))
            # The dispatcher refuses a model that is not installed here by name.
            yield

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        """Counts a request in, and out if it fails here; the dispatcher counts it from then on."""
        self.loading += 1
        self._metrics.arrived()
        try:
            yield
        except BaseException as error:
            self._metrics.ended(self._display_name(name), outcome_of(error))
            raise
        else:
            self._metrics.loaded()
        finally:
            self.loading -= 1

    def _display_name(self, name: str) -> str:
        """Returns the name of the model that serves a request; empty if it is not installed."""
        hosted = self._catalog.hosted(name)
        return "" if hosted is None else hosted.names[0]

    async def _hosted(self, name: str, deadline: float | None = None) -> HostedModel | None:
        """Returns what a worker hosts for a model, after that has been installed."""
        if self._catalog.expects(name):
            await self.find_or_wait(name, deadline)
        return self._catalog.hosted(name)

    def _key(self, name: str) -> str:
        hosted = self._catalog.hosted(name)
        return model_key(name) if hosted is None else _key(hosted)


def _key(hosted: HostedModel) -> str:
    return model_key(hosted.names[0])
