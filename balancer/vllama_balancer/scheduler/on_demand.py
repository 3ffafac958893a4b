"""The Gateway that loads models on demand: it stands between the front doors and the dispatcher."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import TYPE_CHECKING, Protocol

from vllama_balancer.errors import ModelNotFound
from vllama_balancer.names import model_key

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.gateway import Call, Gateway, ModelEntry
    from vllama_balancer.scheduler.scheduler import ModelScheduler
    from vllama_protos.v1 import embedding_pb2, generation_pb2


NOTICEABLE_SECONDS = 0.01
"""A request that waited for less time found its model loaded."""


class HostedModels(Protocol):
    """Returns how models are hosted: the catalog."""

    def find(self, name: str) -> ModelEntry | None:
        """Returns a model by any spelling of its name."""
        ...

    def expects(self, name: str) -> bool:
        """Returns whether a model is being installed."""
        ...

    def hosted(self, name: str) -> HostedModel | None:
        """Returns what a worker hosts for a model; None when that is not installed here."""
        ...


class OnDemand:
    """A Gateway that keeps the model of each request loaded while it runs, and the edge's Residency."""

    def __init__(
        self,
        gateway: Gateway,
        catalog: HostedModels,
        scheduler: ModelScheduler,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateway = gateway
        self._catalog = catalog
        self._scheduler = scheduler
        self._clock = clock

    async def generate(
        self, request: generation_pb2.GenerateRequest, call: Call
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Loads the model, then yields the dispatcher's events; the last one reports how long the load took."""
        asked_at = self._clock()
        request.model = await self._worker_model(request.model, call.deadline)
        async with self._in_use(request.model, call), aclosing(self._gateway.generate(request, call)) as events:
            load_seconds = self._clock() - asked_at
            async for event in events:
                if load_seconds >= NOTICEABLE_SECONDS and event.HasField("finished"):
                    event.finished.timings.load.FromNanoseconds(int(load_seconds * 1e9))
                yield event

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """Loads the model, then embeds."""
        request.model = await self._worker_model(request.model, call.deadline)
        async with self._in_use(request.model, call):
            return await self._gateway.embed(request, call)

    async def tokenize(self, request: generation_pb2.TokenizeRequest, call: Call) -> generation_pb2.TokenizeResponse:
        """Loads the model, then tokenizes."""
        request.model = await self._worker_model(request.model, call.deadline)
        async with self._in_use(request.model, call):
            return await self._gateway.tokenize(request, call)

    async def detokenize(
        self, request: generation_pb2.DetokenizeRequest, call: Call
    ) -> generation_pb2.DetokenizeResponse:
        """Loads the model, then turns ids into text."""
        request.model = await self._worker_model(request.model, call.deadline)
        async with self._in_use(request.model, call):
            return await self._gateway.detokenize(request, call)

    def models(self) -> Sequence[ModelEntry]:
        """Lists the models that a request can name."""
        return self._gateway.models()

    def find(self, name: str) -> ModelEntry | None:
        """Returns a model by any spelling of its name."""
        return self._gateway.find(name)

    def expect_room(self, name: str) -> None:
        """Asks the dispatcher if the model is loaded; requests for one that is not wait for the load first."""
        if self._scheduler.is_loaded(model_key(name)):
            self._gateway.expect_room(name)

    async def search(self, name: str, deadline: float | None = None) -> ModelEntry | None:
        """Returns a model, after it has been installed; that wait is bounded as one for a load is."""
        if not self._catalog.expects(name):
            return await self._gateway.search(name, deadline)
        async with self._scheduler.waiting(deadline):
            return await self._gateway.search(name)

    async def load(self, name: str, keep_alive_seconds: float | None) -> None:
        """Returns once the model can serve. Raises ModelNotFound, NoWorker."""
        target = await self._worker_model(name)
        if (hosted := self._catalog.hosted(target)) is None:
            raise ModelNotFound(f"model '{name}' not found", field="model")
        if keep_alive_seconds is not None:
            self._scheduler.keep(model_key(target), keep_alive_seconds)
        async with self._scheduler.in_use(model_key(target), hosted):
            return

    async def unload(self, name: str) -> None:
        """Unloads the model once it is idle; never loads it."""
        await self._scheduler.unload(model_key(self._target(name)))

    def keep(self, name: str, keep_alive_seconds: float) -> None:
        """Replaces how long the model stays after its last request."""
        self._scheduler.keep(model_key(self._target(name)), keep_alive_seconds)

    async def _worker_model(self, name: str, deadline: float | None = None) -> str:
        """Returns the model whose workers serve a request, after it has been installed."""
        if self._catalog.expects(name):
            await self.search(name, deadline)
        return self._target(name)

    def _target(self, name: str) -> str:
        """Returns the model that an alias was made from, whose workers serve it."""
        entry = self._catalog.find(name)
        return name if entry is None or not entry.target else entry.target

    def _in_use(self, name: str, call: Call) -> AbstractAsyncContextManager[None]:
        hosted = self._catalog.hosted(name)
        # The dispatcher refuses a model that is not installed here by name.
        return nullcontext() if hosted is None else self._scheduler.in_use(model_key(name), hosted, call.deadline)
