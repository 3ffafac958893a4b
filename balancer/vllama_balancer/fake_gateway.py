"""FakeGateway: a Gateway that plays scripts, and FakeFleet: a fleet without workers, for tests of the front doors.

It records every request for the test to inspect. A script can raise an error, or wait for an event of the test.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vllama_balancer.gateway import Call, ModelEntry
from vllama_balancer.names import parse_name
from vllama_balancer.preset_options import to_options
from vllama_protos.v1 import embedding_pb2, fleet_pb2, generation_pb2, presets_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from vllama_balancer.errors import QueueFull

Step = generation_pb2.GenerateResponse | Exception | asyncio.Event
"""An event to yield, an error to raise, or something to wait for."""

_ALL_TEXT = (worker_pb2.CAPABILITY_COMPLETION, worker_pb2.CAPABILITY_CHAT)


def started(prompt_token_ids: Sequence[int] = (1, 2, 3), *, worker: str = "worker-0") -> Step:
    event = generation_pb2.Started(
        worker=worker, boot_id="boot", prompt_tokens=len(prompt_token_ids), prompt_token_ids=prompt_token_ids
    )
    return generation_pb2.GenerateResponse(started=event)


def delta(text: str = "", **fields: object) -> Step:
    """Makes an event with output; one token per delta unless `token_ids` says otherwise."""
    fields.setdefault("token_ids", [7])
    return generation_pb2.GenerateResponse(delta=generation_pb2.Delta(text=text, **fields))  # type: ignore[arg-type]


def finished(
    reason: generation_pb2.FinishReason = generation_pb2.FINISH_REASON_STOP,
    *,
    prompt_tokens: int = 3,
    completion_tokens: int = 2,
) -> Step:
    """Makes a last event, with timings of 1, 2, 3 and 4 ms."""
    event = generation_pb2.Finished(
        reason=reason,
        usage=generation_pb2.Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens),
    )
    spans = (event.timings.queue, event.timings.load, event.timings.prompt, event.timings.decode)
    for milliseconds, span in enumerate(spans, start=1):
        span.FromMilliseconds(milliseconds)
    return generation_pb2.GenerateResponse(finished=event)


def model(
    name: str = "smollm2:135m",
    *,
    capabilities: Iterable[worker_pb2.Capability] = _ALL_TEXT,
    sampling: generation_pb2.Sampling | None = None,
    **fields: object,
) -> ModelEntry:
    """Makes a catalog entry of a small model that one worker serves."""
    description = worker_pb2.DescribeResponse(
        worker="worker-0",
        boot_id="boot",
        models=[name],
        capabilities=list(capabilities),
        context_length=2048,
        max_streams=64,
        device=worker_pb2.Device(kind="cpu", name="a CPU", memory_bytes=2**34),
        model_info=worker_pb2.ModelInfo(
            architecture="llama",
            parameter_count=134515008,
            size_bytes=269030016,
            embedding_length=576,
            block_count=30,
            head_count=9,
            head_count_kv=3,
            vocabulary_size=49152,
            trained_context_length=8192,
            quantization="BF16",
            chat_template="{% for message in messages %}{{ message.content }}{% endfor %}",
            default_sampling=sampling,
        ),
    )
    values: dict[str, object] = {
        "name": name,
        "digest": name.encode().hex().ljust(64, "0")[:64],
        "size_bytes": 269030016,
        "modified_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "replicas": 1,
        "description": description,
    }
    return ModelEntry(**{**values, **fields})  # type: ignore[arg-type]


def presets(
    system: str = "", *, messages: Iterable[generation_pb2.Message] = (), template: str = "", **options: object
) -> presets_pb2.ModelPresets:
    """Makes presets; `options` are values by Ollama's names."""
    return presets_pb2.ModelPresets(system=system, messages=messages, template=template, options=to_options(options))


HELLO: tuple[Step, ...] = (started(), delta("Hello"), delta(" world"), finished())
"""The default script."""


class FakeGateway:
    """Plays one script per generation: those given to `play`, in order, then "Hello world"."""

    def __init__(self, *models: ModelEntry) -> None:
        self.entries = list(models) or [model()]
        self.requests: list[generation_pb2.GenerateRequest] = []
        """Every request of a generation, as it came."""
        self.embed_requests: list[embedding_pb2.EmbedRequest] = []
        self.calls: list[Call] = []
        self.running = 0
        """Generations that are open now."""
        self.all_closed = asyncio.Event()
        """Set while no generation is open."""
        self.all_closed.set()
        self.waiting = asyncio.Event()
        """Set once a generation waits at an Event of its script."""
        self.full: QueueFull | None = None
        """Raised by `raise_if_full`; None: there is room."""
        self._scripts: list[Sequence[Step]] = []

    def play(self, *steps: Step) -> None:
        self._scripts.append(steps)

    async def generate(
        self, request: generation_pb2.GenerateRequest, call: Call
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        self.requests.append(request)
        self.calls.append(call)
        script = self._scripts.pop(0) if self._scripts else HELLO
        self.running += 1
        self.all_closed.clear()
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    self.waiting.set()
                    await step.wait()
                else:
                    if step.HasField("started"):
                        call.placement.worker, call.placement.reason = step.started.worker, "only-candidate"
                    yield step
        finally:
            self.running -= 1
            if not self.running:
                self.all_closed.set()

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """Makes vectors [length, 1] out of the inputs, a token per word."""
        self.embed_requests.append(request)
        self.calls.append(call)
        vectors = [
            embedding_pb2.Vector(values=[float(len(text)), 1.0], prompt_tokens=len(text.split()))
            for text in request.inputs
        ]
        return embedding_pb2.EmbedResponse(vectors=vectors)

    async def tokenize(self, request: generation_pb2.TokenizeRequest, call: Call) -> generation_pb2.TokenizeResponse:
        """Makes one token of every word; a chat is rendered as "<role>: <content>" lines."""
        self.calls.append(call)
        text = request.prompt or "".join(f"{turn.role}: {turn.content}\n" for turn in request.chat.messages)
        return generation_pb2.TokenizeResponse(token_ids=range(len(text.split())), text=text)

    async def detokenize(
        self, request: generation_pb2.DetokenizeRequest, call: Call
    ) -> generation_pb2.DetokenizeResponse:
        """Writes the ids out as numbers."""
        self.calls.append(call)
        return generation_pb2.DetokenizeResponse(text=" ".join(map(str, request.token_ids)))

    def models(self) -> list[ModelEntry]:
        return self.entries

    def find(self, name: str) -> ModelEntry | None:
        key = parse_name(name).key
        return next((entry for entry in self.entries if parse_name(entry.name).key == key), None)

    def raise_if_full(self, name: str) -> None:
        if self.full is not None:
            raise self.full

    async def find_or_wait(self, name: str, deadline: float | None = None) -> ModelEntry | None:
        return self.find(name)


class FakeFleet:
    """A FleetView without workers."""

    def fleet(self) -> fleet_pb2.ListWorkersResponse:
        return fleet_pb2.ListWorkersResponse()
