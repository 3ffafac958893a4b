"""What both front doors call: one small protocol in the wire's own messages.

The dispatcher implements it in process; a remote balancer can stand behind it as well, so the
edge can run alone. Front doors translate into these calls and know nothing of workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from datetime import datetime

    from vllama_protos.v1 import embedding_pb2, fleet_pb2, generation_pb2, worker_pb2


@dataclass(slots=True)
class Placement:
    """Where a call went; the gateway fills it in, front doors show it as metadata."""

    worker: str = ""
    """Name of the worker that took it first; empty until one has."""
    reason: str = ""
    """Why that one, in one phrase: "cached-prefix"."""


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, and until when."""

    client: str
    """Key for fair turns: API key, else client address, else session."""
    deadline: float | None = None
    """On the event loop's clock, seconds; None: no deadline."""
    placement: Placement = field(default_factory=Placement)
    """Where it went; known once the first event has come."""

    def remaining_seconds(self, now: float) -> float | None:
        """Tells how much time is left, never less than a millisecond; None without a deadline."""
        return None if self.deadline is None else max(self.deadline - now, 0.001)


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
    """What a worker said of it; None until one has been ready."""
    license: str = ""
    """Text of the licence."""
    system: str = ""
    """System text that the model or alias presets."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Option values that the model or alias presets, by Ollama's names."""
    messages: Sequence[generation_pb2.Message] = ()
    """Turns that the alias puts before every conversation."""
    template: str = ""
    """Jinja text that the alias renders chats with; empty: the model's own template."""
    target: str = ""
    """For an alias: the model whose workers serve it; empty: the name itself."""


class Gateway(Protocol):
    """Serves generations, embeddings and the catalog. Errors are those of errors.py."""

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
        """Lists the models that can be named, newest first. Cheap: no I/O."""
        ...

    def find(self, name: str) -> ModelEntry | None:
        """Finds a model by any spelling of its name that names.py treats as the same."""
        ...

    def expect_room(self, name: str) -> None:
        """Raises QueueFull when a generation or embedding by this model would be refused now, as far as is known.

        Cheap: front doors ask before they make anything of a request, so that a burst costs little.
        """
        ...

    async def search(self, name: str, deadline: float | None = None) -> ModelEntry | None:
        """Finds a model as `find` does; one that is on its way, as in the first moments of a start, is waited for.

        Raises DeadlineExceeded at the deadline (on the event loop's clock), NoWorker when it passes before the
        workers have told what they serve, QueueFull when too many wait already.
        """
        ...


class Residency(Protocol):
    """Decides how long models stay loaded; told by clients through `keep_alive`.

    For models that are pinned all of it is a no-op.
    """

    async def load(self, name: str, keep_alive_seconds: float | None) -> None:
        """Returns once the model can serve. None keeps it for the default time, infinity forever.

        Raises ModelNotFound, NoWorker.
        """
        ...

    async def unload(self, name: str) -> None:
        """Lets the model go once it is idle; never loads it."""
        ...

    def keep(self, name: str, keep_alive_seconds: float) -> None:
        """Replaces how long the model stays after its last request; 0: it goes once idle."""
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a new alias is made of; None leaves what its base presets."""

    base: str
    """Model or alias that it is made from."""
    system: str | None = None
    """System text."""
    parameters: Mapping[str, object] | None = None
    """Option values by Ollama's names; they are put over the base's own."""
    messages: Sequence[Mapping[str, object]] | None = None
    """Turns put before every conversation, as Ollama's JSON."""
    license: str | None = None
    """Text of the licence."""
    template: str | None = None
    """Jinja text that renders chats."""


class Management(Protocol):
    """Installs, removes and renames models. Names are compared as names.py does."""

    def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        """Installs a model, or finds it installed; yields what is being done.

        Closing the generator ends the work; a later pull resumes a download. Raises the errors of
        models/errors.py: ModelUnknown, SourceUnavailable, AccessRefused, DownloadDamaged, DoesNotFit.
        """
        ...

    async def delete(self, name: str) -> None:
        """Removes a name, and its weights when no other name needs them.

        Raises ModelNotFound, and ModelInUse for a model that the configuration pins.
        """
        ...

    async def copy(self, source: str, destination: str) -> None:
        """Gives an installed model a second name. Raises ModelNotFound."""
        ...

    async def create(self, name: str, recipe: Recipe) -> None:
        """Makes an alias with presets, which survives a restart. Raises ModelNotFound for an unknown base."""
        ...


class FleetView(Protocol):
    """Shows the fleet at this moment, for the page and for /health."""

    def fleet(self) -> fleet_pb2.ListWorkersResponse:
        """Lists every worker. Cheap: no I/O."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a long task."""

    status: str
    """What is being done, for people: "converting tensors"."""
    completed: int = 0
    """How much of `total` is done."""
    total: int = 0
    """How much there is; 0 when that is not known."""
    digest: str = ""
    """The file that is meant, as "sha256:<64 hex>"; empty when no single one is."""
