"""A worker in this process that follows a test's script: tokens on cue, faults on demand.

It serves the real services over a real gRPC server, so that channels, cancellations and lost
connections are the real ones; only the engine is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import duration_pb2

from vllama_balancer.errors import BalancerError, DeadlineExceeded, EngineFault, NoWorker, QueueFull
from vllama_balancer.front.rpc_errors import rich_status
from vllama_protos.durations import seconds_of
from vllama_protos.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT_SECONDS = 0.05
"""How often reports are repeated; real workers take a second, tests have less patience."""


@dataclass
class Script:
    """A worker's behaviour for its requests."""

    errors: list[BalancerError] = field(default_factory=list)
    """One for each of the next requests, answered at once."""
    always: BalancerError | None = None
    """Answers every request."""
    error_after_tokens: tuple[int, BalancerError] | None = None
    """Ends a stream with an error after so many tokens in all."""
    die_after_tokens: int | None = None
    """Ends the whole worker when any stream has so many tokens in all."""
    poison: str = ""
    """Ends the whole worker when a prompt contains it."""
    pause_after_tokens: int | None = None
    """Streams wait for `go_on` after so many tokens in all."""
    pause_unary: bool = False
    """Unary calls wait for `go_on`."""
    leave_after_tokens: int | None = None
    """Streams end with ABORTED after so many tokens in all."""
    finish_after_tokens: int | None = None
    """Streams end by `finished` after so many tokens, whatever their limit."""
    end_early: bool = False
    """Streams end without `finished`."""
    salt: str = ""
    """Makes the output differ from other workers'."""
    tokens_per_delta: int = 1
    """Tokens that are sent together."""
    cached_prompt_tokens: int = 0
    """Sent in `started`."""


class _Aborted(Exception):
    """A generation on a shared call has ended with an error: a serialized google.rpc.Status."""


class _Lane:
    """One generation's share of a Relay call, in place of a context of its own."""

    def __init__(self, stream: int, context: Any, writing: asyncio.Lock, *, needs_no_ready: bool) -> None:
        self._stream = stream
        self._context = context
        self._writing = writing
        self._needs_no_ready = needs_no_ready

    async def write(self, response: generation_pb2.GenerateResponse) -> None:
        """Sends an event."""
        await self.send(response=response)

    async def send(self, **event: Any) -> None:
        """Sends an event or the last status; one message at a time."""
        event = worker_pb2.RelayEvent(stream=self._stream, **event)
        async with self._writing:
            message = worker_pb2.RelayResponse(events=[event], needs_no_ready=self._needs_no_ready)
            await self._context.write(message)

    async def abort_with_status(self, status: grpc.Status) -> None:
        """Ends the generation."""
        raise _Aborted(dict(status.trailing_metadata)["grpc-status-details-bin"])


class ScriptedWorker(
    generation_pb2_grpc.GenerationServicer,
    embedding_pb2_grpc.EmbeddingServicer,
    worker_pb2_grpc.WorkerServicer,
):
    """One worker; each `start` after a `die` is a new incarnation at the same address."""

    def __init__(self, name: str, address: str, models: tuple[str, ...] = ("m:latest",), max_streams: int = 8) -> None:
        self.name = name
        self.address = address
        self.models = models
        self.max_streams = max_streams
        self.script = Script()
        self.requests: list[generation_pb2.GenerateRequest] = []
        self.tokenized: list[generation_pb2.TokenizeRequest] = []
        self.go_on = asyncio.Event()
        self.boot_id = ""
        self.running = 0
        self.poisoned = 0
        self.delivered = 0
        self.report = worker_pb2.WorkerReport()
        self.is_silent = False
        self.answers_describe = True
        self.describes = 0
        self.can_relay = False
        self.needs_no_ready = False
        self.ready_orders = 0
        self._server: grpc.aio.Server | None = None
        self._death: asyncio.Future[None] | None = None
        self._changed = asyncio.Event()
        self._over = asyncio.Event()

    # -- incarnations ----------------------------------------------------------------------

    async def start(self, state: int = worker_pb2.WORKER_STATE_READY) -> None:
        """Begins an incarnation."""
        self._over.clear()
        self.boot_id = uuid.uuid4().hex
        self.report = worker_pb2.WorkerReport(worker=self.name, boot_id=self.boot_id, state=state)
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        generation_pb2_grpc.add_GenerationServicer_to_server(self, self._server)
        embedding_pb2_grpc.add_EmbeddingServicer_to_server(self, self._server)
        worker_pb2_grpc.add_WorkerServicer_to_server(self, self._server)
        self.bind(self._server)
        await self._server.start()

    def bind(self, server: grpc.aio.Server) -> None:
        """Listens on its address."""
        server.add_insecure_port(self.address)

    async def die(self) -> None:
        """Cuts every call and the connection."""
        self._over.set()
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    @property
    def is_dead(self) -> bool:
        """Whether it does not run, and is not just ending."""
        return self._server is None and (self._death is None or self._death.done())

    def become(self, state: int) -> None:
        """Reports another state at once."""
        self.report.state = state
        self.push()

    def push(self) -> None:
        """Sends the report at once."""
        self._changed.set()

    # -- services --------------------------------------------------------------------------

    async def Describe(self, request: Any, context: Any) -> worker_pb2.DescribeResponse:
        """Returns its description."""
        self.describes += 1
        while not self.answers_describe and not self._over.is_set():
            await asyncio.sleep(0.005)
        return worker_pb2.DescribeResponse(
            worker=self.name,
            boot_id=self.boot_id,
            models=self.models,
            capabilities=[worker_pb2.CAPABILITY_COMPLETION, worker_pb2.CAPABILITY_EMBEDDING],
            max_streams=self.max_streams,
            kv_cache_tokens=100_000,
            can_relay=self.can_relay,
        )

    async def Watch(self, request: Any, context: Any) -> None:
        """Reports again and again, unless silent."""
        while True:
            if not self.is_silent:
                self.report.running = self.running
                await context.write(self.report)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._changed.wait()

    async def Drain(self, request: Any, context: Any) -> worker_pb2.DrainResponse:
        """Says that it drains; its streams go on."""
        self.become(worker_pb2.WORKER_STATE_DRAINING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds_of(request.deadline) if request.HasField("deadline") else None):
                while self.running:
                    await asyncio.sleep(0.005)
        return worker_pb2.DrainResponse(remaining_streams=self.running)

    async def Undrain(self, request: Any, context: Any) -> worker_pb2.UndrainResponse:
        """Is ready again."""
        self.become(worker_pb2.WORKER_STATE_READY)
        return worker_pb2.UndrainResponse()

    async def Embed(self, request: embedding_pb2.EmbedRequest, context: Any) -> embedding_pb2.EmbedResponse:
        """Makes a vector of each text's length."""
        await self._refuse_if_scripted(context)
        if self.script.poison and any(self.script.poison in text for text in request.inputs):
            self.poisoned += 1
            await self._end_the_worker()
        vectors = [embedding_pb2.Vector(values=[float(len(text))], prompt_tokens=1) for text in request.inputs]
        return embedding_pb2.EmbedResponse(vectors=vectors)

    async def Tokenize(self, request: Any, context: Any) -> generation_pb2.TokenizeResponse:
        """Makes one token of each character."""
        self.tokenized.append(request)
        await self._refuse_if_scripted(context)
        return generation_pb2.TokenizeResponse(token_ids=[ord(c) for c in request.prompt], text=request.prompt)

    async def Detokenize(self, request: Any, context: Any) -> generation_pb2.DetokenizeResponse:
        """The reverse."""
        await self._refuse_if_scripted(context)
        if self.script.pause_unary:
            await self._pause()
        return generation_pb2.DetokenizeResponse(text="".join(chr(i) for i in request.token_ids))

    async def _pause(self) -> None:
        self.running += 1
        try:
            await self.go_on.wait()
        finally:
            self.running -= 1

    async def Generate(self, request: generation_pb2.GenerateRequest, context: Any) -> None:
        """Plays the script for one generation."""
        self.requests.append(request)
        self.running += 1
        self.push()
        try:
            await self._refuse_if_scripted(context)
            await self._play(request, context)
        finally:
            self.running -= 1
            self.push()

    async def Relay(self, orders: Any, context: Any) -> None:
        """Plays the script for every generation of a shared call."""
        writing, running = asyncio.Lock(), {}
        try:
            async for order in orders:
                if order.HasField("start"):
                    lane = _Lane(order.stream, context, writing, needs_no_ready=self.needs_no_ready)
                    running[order.stream] = asyncio.create_task(self._relayed(order.start.request, lane))
                elif order.HasField("cancel"):
                    running[order.stream].cancel()
                else:
                    self.ready_orders += 1
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)

    async def _relayed(self, request: generation_pb2.GenerateRequest, lane: _Lane) -> None:
        try:
            await self.Generate(request, lane)
        except _Aborted as error:
            await lane.send(status=error.args[0])
            return
        if self.script.end_early:
            await lane.send(status=dict(rich_status(fault()).trailing_metadata)["grpc-status-details-bin"])

    async def _refuse_if_scripted(self, context: Any) -> None:
        error = self.script.errors.pop(0) if self.script.errors else self.script.always
        if error is not None:
            await context.abort_with_status(rich_status(error))

    async def _play(self, request: generation_pb2.GenerateRequest, context: Any) -> None:
        script, prompt_tokens = self.script, len(request.prompt)
        started = generation_pb2.Started(
            worker=self.name,
            boot_id=self.boot_id,
            prompt_tokens=prompt_tokens,
            cached_prompt_tokens=script.cached_prompt_tokens,
        )
        await context.write(generation_pb2.GenerateResponse(started=started))
        if script.poison and script.poison in request.prompt:
            await self._end_the_worker()
        limit = request.sampling.max_tokens if request.sampling.HasField("max_tokens") else 16
        if script.finish_after_tokens is not None:
            limit = script.finish_after_tokens
        done = len(request.resume_token_ids)
        while done < limit:
            count = min(script.tokens_per_delta, limit - done)
            await self._fail_if_scripted(done, context)
            await context.write(generation_pb2.GenerateResponse(delta=self.delta(done, count, request.sampling.seed)))
            done += count
            self.delivered = done
        await self._fail_if_scripted(done, context)
        if script.end_early:
            return
        finished = generation_pb2.Finished(
            reason=generation_pb2.FINISH_REASON_LENGTH,
            usage=generation_pb2.Usage(prompt_tokens=prompt_tokens, completion_tokens=done),
            timings=generation_pb2.Timings(queue=duration_pb2.Duration(nanos=1), decode=duration_pb2.Duration(nanos=1)),
        )
        await context.write(generation_pb2.GenerateResponse(finished=finished))

    async def _fail_if_scripted(self, done: int, context: Any) -> None:
        script = self.script
        if script.die_after_tokens is not None and done >= script.die_after_tokens:
            await self._end_the_worker()
        if script.pause_after_tokens is not None and done == script.pause_after_tokens:
            await self.go_on.wait()
        if script.leave_after_tokens is not None and done >= script.leave_after_tokens:
            aborted = generation_pb2.Finished(reason=generation_pb2.FINISH_REASON_ABORTED)
            await context.write(generation_pb2.GenerateResponse(finished=aborted))
            await asyncio.Event().wait()
        if script.error_after_tokens is not None and done >= script.error_after_tokens[0]:
            await context.abort_with_status(rich_status(script.error_after_tokens[1]))

    async def _end_the_worker(self) -> None:
        """Dies from within a call: the call itself is cut with all others."""
        server, self._server = self._server, None
        if server is not None:
            self._death = asyncio.ensure_future(server.stop(None))
        await asyncio.Event().wait()

    def delta(self, first: int, count: int, seed: int = 0) -> generation_pb2.Delta:
        """Makes the tokens `first`, `first + 1`, … of every generation (with that seed)."""
        salt = f"{self.script.salt}{seed or ''}"
        return generation_pb2.Delta(
            text="".join(f" {salt}{i}" for i in range(first, first + count)),
            token_ids=[1000 + i + 7 * len(self.script.salt) for i in range(first, first + count)],
        )


def text_of(tokens: int, salt: str = "") -> str:
    """The text of an undisturbed generation."""
    return "".join(f" {salt}{i}" for i in range(tokens))


def fault(message: str = "the engine stumbled") -> BalancerError:
    """The engine failed on one request."""
    return EngineFault(message)


def busy(retry_after_seconds: float = 0.05) -> BalancerError:
    """The worker's own queue is full."""
    return QueueFull("the worker's queue is full", reason="ENGINE_BUSY", retry_after_seconds=retry_after_seconds)


def draining() -> BalancerError:
    """The worker leaves."""
    return NoWorker("the worker drains", reason="WORKER_DRAINING")


def late() -> BalancerError:
    """The deadline passed in the worker."""
    return DeadlineExceeded("too late")


async def eventually(condition: Callable[[], object], timeout_seconds: float = 10.0) -> None:
    """Waits until a condition holds; fails the test when it does not in time."""
    async with asyncio.timeout(timeout_seconds):
        while not condition():
            await asyncio.sleep(0.002)
