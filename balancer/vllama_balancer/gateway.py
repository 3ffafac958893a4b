"""The interface between the front doors and the rest of the balancer, in the wire's own messages.

`Gateway` serves requests: the Dispatcher implements it, OnDemand around it where models are loaded on demand.
`Residency` and `Management` are for clients that load and install models. `FleetView` is the state of the fleet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from vllama_protos.v1 import presets_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from vllama_balancer.callers import Caller
    from vllama_protos.v1 import embedding_pb2, fleet_pb2, generation_pb2, worker_pb2


LONGEST_SECONDS = 10 * 365 * 86_400.0
"""Ten years. A longer time is forever: dates, durations of the wire and timers have limits of their own."""


@dataclass(slots=True)
class Placement:
    """The worker that serves a call; the gateway fills it in, front doors show it as metadata."""

    worker: str = ""
    """Name of the first worker that accepted it; empty before that."""
    reason: str = ""
    """The policy's reason in one phrase: "cached-prefix"."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request's client and deadline."""

    client: str
    """Key of fair queueing: the API key's owner, else the client's address; empty: the session counts."""
    deadline: float | None = None
    """On the event loop's clock, seconds; None: no deadline."""
    placement: Placement = field(default_factory=Placement)
    """Known once the first event has come."""
    model: ModelEntry | None = None
    """The request's model if the caller has looked it up; None: the gateway looks it up by name."""

    def remaining_seconds(self, now: float) -> float | None:
        """Returns the time until the deadline, from a millisecond to ten years; None without a deadline."""
        return None if self.deadline is None else max(0.001, min(self.deadline - now, LONGEST_SECONDS))


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model that can be named in a request."""

    name: str
    """Display form, always with a tag: "smollm2:135m", "org/repo:latest"."""
    digest: str
    """64 hex digits; differs between models and changes with their capabilities."""
    size_bytes: int
    """Bytes of the weights."""
    modified_at: datetime
    """When the weights were installed; timezone-aware."""
    replicas: int = 0
    """Workers that are ready to serve it; 0: not loaded."""
    expires_at: datetime | None = None
    """When an idle model is unloaded; None: pinned."""
    description: worker_pb2.DescribeResponse | None = None
    """A worker's own description of it; None until one has been ready."""
    license: str = ""
    """Text of the licence."""
    presets: presets_pb2.ModelPresets = field(default_factory=presets_pb2.ModelPresets)
    """What the model or alias presets; shared, so not to be changed."""
    target: str = ""
    """For an alias: the model whose workers serve it; empty: the name itself."""


class Gateway(Protocol):
    """Serves generations, embeddings and the list of models. Errors are those of errors.py.

    A call takes its request over: it sets the id, model, seed and resumed tokens in place, and makes no copy.
    """

    def generate(
        self, request: generation_pb2.GenerateRequest, call: Call
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Yields `started`, deltas, then `finished`; closing the generator ends the generation.

        Raises before the first event when the request is refused, after it when the generation
        cannot be brought to its end.
        """
        ...

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """Embeds texts."""
        ...

    async def tokenize(self, request: generation_pb2.TokenizeRequest, call: Call) -> generation_pb2.TokenizeResponse:
        """Renders and tokenizes."""
        ...

    async def detokenize(
        self, request: generation_pb2.DetokenizeRequest, call: Call
    ) -> generation_pb2.DetokenizeResponse:
        """Turns token ids into text."""
        ...

    def models(self) -> Sequence[ModelEntry]:
        """Returns the models that can be named, newest first. Cheap: no I/O."""
        ...

    def find(self, name: str) -> ModelEntry | None:
        """Returns a model by any spelling of its name that names.py treats as the same."""
        ...

    def raise_if_full(self, name: str) -> None:
        """Raises QueueFull when a generation or embedding by this model would be refused now, as far as is known.

        Cheap: front doors call it before they translate a request, so that a burst costs little.
        """
        ...

    async def find_or_wait(self, name: str, deadline: float | None = None) -> ModelEntry | None:
        """Finds a model as `find` does; waits for one that may still be announced, as shortly after the start.

        Raises DeadlineExceeded at the deadline (on the event loop's clock), NoWorker when it passes before the
        workers have announced their models, QueueFull when too many wait already.
        """
        ...


def keep_alive(seconds: float) -> float:
    """Returns how long a model stays: infinity for times that are negative, beyond ten years, or no numbers."""
    return seconds if 0 <= seconds <= LONGEST_SECONDS else math.inf


class Residency(Protocol):
    """Loads and unloads models, and sets how long they stay, as clients ask with `keep_alive`.

    All of it is a no-op for pinned models.
    """

    async def load(self, name: str, keep_alive_seconds: float | None) -> None:
        """Returns once the model can serve. None keeps it for the default time, infinity forever.

        Raises ModelNotFound, NoWorker.
        """
        ...

    async def unload(self, name: str) -> None:
        """Unloads the model once it is idle; never loads it."""
        ...

    def keep(self, name: str, keep_alive_seconds: float) -> None:
        """Sets how long the model stays after its last request; 0: it is unloaded once idle."""
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """The content of a new alias; None keeps the preset of its base."""

    base: str
    """Model or alias that it is derived from."""
    system: str | None = None
    """System text."""
    options: Sequence[presets_pb2.ModelOption] = ()
    """Option values; they are put over the base's own."""
    messages: Sequence[generation_pb2.Message] | None = None
    """Turns put before every conversation."""
    license: str | None = None
    """Text of the licence."""
    template: str | None = None
    """Jinja text that renders chats."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a long task."""

    status: str
    """The present step, for people: "converting tensors"."""
    completed: int = 0
    """The done part of `total`."""
    total: int = 0
    """The whole amount; 0 when that is not known."""
    digest: str = ""
    """The file in question, as "sha256:<64 hex>"; empty when it is not one file."""


class Management(Protocol):
    """Installs, removes and renames models. Names are compared as names.py does."""

    def pull(self, name: str, caller: Caller) -> AsyncGenerator[Progress, None]:
        """Installs a model, or finds it installed; yields what is being done.

        Closing the generator ends the work; a later pull resumes a download. Raises the errors of
        models/errors.py: ModelUnknown, SourceUnavailable, AccessRefused, DownloadDamaged, DoesNotFit; before the first
        step PermissionDenied for what the caller may not install, and PullsFull.
        """
        ...

    async def delete(self, name: str) -> None:
        """Removes a name, and its weights when no other name needs them.

        Raises ModelNotFound, and ModelInUse for a model that the configuration pins.
        """
        ...

    async def copy(self, source: str, destination: str) -> None:
        """Gives an installed model a second name. Raises ModelNotFound, and ModelInUse for a name that is pinned."""
        ...

    async def create(self, name: str, recipe: Recipe) -> None:
        """Makes an alias with presets, which survives a restart.

        Raises ModelNotFound for an unknown base, and ModelInUse for a name that is pinned.
        """
        ...


class ModelUnloader(Protocol):
    """Unloads models at an operator's order."""

    async def unload_model(self, name: str) -> fleet_pb2.UnloadModelResponse:
        """Unloads a model, a pinned one too; its next request loads it again. Raises ModelNotFound."""
        ...


class FleetView(Protocol):
    """The present state of the fleet, for the dashboard, /health and the Fleet service."""

    def fleet(self) -> fleet_pb2.ListWorkersResponse:
        """Returns every worker and model. Cheap: no I/O."""
        ...
