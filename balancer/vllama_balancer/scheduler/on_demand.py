"""The gateway that loads models before it passes requests on: between the front doors and the dispatcher."""

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
"""A wait for the model that is shorter was none: it was loaded."""


class Hosts(Protocol):
    """Knows how a model is hosted."""

    def find(self, name: str) -> ModelEntry | None:
        """Finds a model by any spelling of its name."""
        ...

    def expects(self, name: str) -> bool:
        """Tells whether a model is not known yet and will be."""
        ...

    def hosted(self, name: str) -> HostedModel | None:
        """Tells what a worker has to host for a model; None when that is not installed here."""
        ...


class OnDemand:
    """A Gateway that keeps the model of each request loaded while it runs, and the edge's Residency."""

    def __init__(
        self, gateway: Gateway, hosts: Hosts, residents: ModelScheduler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gateway = gateway
        self._hosts = hosts
        self._residents = residents
        self._clock = clock

    async def generate(
        self, request: generation_pb2.GenerateRequest, call: Call
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Loads the model, then yields what the dispatcher does; at the end it is told how long the load took."""
        asked_at = self._clock()
        request.model = await self._sought(request.model, call.deadline)
        async with self._used(request.model, call), aclosing(self._gateway.generate(request, call)) as events:
            load_seconds = self._clock() - asked_at
            async for event in events:
                if load_seconds >= NOTICEABLE_SECONDS and event.HasField("finished"):
                    event.finished.timings.load.FromNanoseconds(int(load_seconds * 1e9))
                yield event

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """Loads the model, then embeds."""
        request.model = await self._sought(request.model, call.deadline)
        async with self._used(request.model, call):
            return await self._gateway.embed(request, call)

    async def tokenize(self, request: generation_pb2.TokenizeRequest, call: Call) -> generation_pb2.TokenizeResponse:
        """Loads the model, then tokenizes."""
        request.model = await self._sought(request.model, call.deadline)
        async with self._used(request.model, call):
            return await self._gateway.tokenize(request, call)

    async def detokenize(
        self, request: generation_pb2.DetokenizeRequest, call: Call
    ) -> generation_pb2.DetokenizeResponse:
        """Loads the model, then turns ids into text."""
        request.model = await self._sought(request.model, call.deadline)
        async with self._used(request.model, call):
            return await self._gateway.detokenize(request, call)

    def models(self) -> Sequence[ModelEntry]:
        """Lists the models that can be named."""
        return self._gateway.models()

    def find(self, name: str) -> ModelEntry | None:
        """Finds a model by any spelling of its name."""
        return self._gateway.find(name)

    def expect_room(self, name: str) -> None:
        """Asks for a model that is loaded; one that is not has a queue of its own, which is asked in its time."""
        if self._residents.is_loaded(model_key(name)):
            self._gateway.expect_room(name)

    async def search(self, name: str, deadline: float | None = None) -> ModelEntry | None:
        """Finds a model; one that is being installed is waited for, as one that loads is."""
        if not self._hosts.expects(name):
            return await self._gateway.search(name, deadline)
        async with self._residents.patience(deadline):
            return await self._gateway.search(name)

    async def load(self, name: str, keep_alive_seconds: float | None) -> None:
        """Returns once the model can serve. Raises ModelNotFound, NoWorker."""
        target = await self._sought(name)
        if (hosted := self._hosts.hosted(target)) is None:
            raise ModelNotFound(f"model '{name}' not found", field="model")
        if keep_alive_seconds is not None:
            self._residents.keep(model_key(target), keep_alive_seconds)
        async with self._residents.used(model_key(target), hosted):
            return

    async def unload(self, name: str) -> None:
        """Lets the model go once it is idle; never loads it."""
        await self._residents.unload(model_key(self._target(name)))

    def keep(self, name: str, keep_alive_seconds: float) -> None:
        """Replaces how long the model stays after its last request."""
        self._residents.keep(model_key(self._target(name)), keep_alive_seconds)

    async def _sought(self, name: str, deadline: float | None = None) -> str:
        """Names the model whose workers serve a request, once that is known."""
        if self._hosts.expects(name):
            await self.search(name, deadline)
        return self._target(name)

    def _target(self, name: str) -> str:
        """An alias is served by the workers of the model that it was made from."""
        entry = self._hosts.find(name)
        return name if entry is None or not entry.target else entry.target

    def _used(self, name: str, call: Call) -> AbstractAsyncContextManager[None]:
        hosted = self._hosts.hosted(name)
        # What is not installed here, the dispatcher refuses by name.
        return nullcontext() if hosted is None else self._residents.used(model_key(name), hosted, call.deadline)
