"""The requests of a chaos run: of every kind, over both doors, each answer checked to the last token.

Each client has dice of its own, so a seed gives the same requests again, whatever the workers do.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import grpc
import pytest

from tests.faults.load import MODEL, prompt_of
from tests.faults.stream_check import StreamCheck, expected_ids, expected_text
from vllama_protos.v1 import embedding_pb2, embedding_pb2_grpc, generation_pb2, generation_pb2_grpc
from vllama_server.fake_engine.embedding import VECTOR_LENGTH, vector
from vllama_server.fake_engine.rendering import chat_text

if TYPE_CHECKING:
    from random import Random

LIMIT_SECONDS = 180.0
"""Time of a request without a deadline of its own: longer than any worker's way back."""
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8},
    "seed": {"temperature": 0.7, "seed": 5},
    "presence penalty": {"temperature": 0.8, "presence_penalty": 1.5},
    "frequency penalty": {"temperature": 0, "frequency_penalty": 0.5},
    "penalties, seed": {"temperature": 0.9, "repetition_penalty": 1.1, "presence_penalty": 0.5, "seed": 0},
}
TOOL = generation_pb2.Tool(name="weather", description="Returns it", parameters_json='{"type": "object"}')
FORMATS = (
    generation_pb2.OutputFormat(json_object=True),
    generation_pb2.OutputFormat(json_schema='{"type": "object", "properties": {"a": {"type": "string"}}}'),
    generation_pb2.OutputFormat(choice=generation_pb2.Choice(options=["yes", "no"])),
)


class Ask(NamedTuple):
    """One request: its text, its length, and how its client behaves."""

    text: str
    tokens: int
    sampling: dict[str, Any]
    seconds: float
    """Deadline."""
    is_hurried: bool
    """Whether that may be too short."""


class Violation(Exception):
    """An answer that breaks what the product promises."""


class Late(Exception):
    """The deadline of a hurried request has passed."""


@dataclass
class ChaosClient:
    """One client with one request at a time. What it met is in `outcomes` and `violations`."""

    channel: grpc.aio.Channel
    session: aiohttp.ClientSession
    url: str
    number: int
    rng: Random
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    migrations: Counter[int] = field(default_factory=Counter)
    """Completed streams by the times they were moved."""
    asked: int = 0

    async def run(self, over: asyncio.Event) -> None:
        """Asks one thing after the other until the run is over."""
        while not over.is_set():
            await self.one()

    async def one(self) -> None:
        """Sends one request, and leaves early when the dice say so."""
        self.asked += 1
        kind = self.rng.choice(list(KINDS))
        self.kinds[kind] += 1
        ask = self._ask()
        leaves_after = self.rng.random() * 2 if self.rng.random() < 0.2 else None
        task = asyncio.ensure_future(KINDS[kind](self, ask))
        try:
            await asyncio.wait({task}, timeout=leaves_after)
            if task.cancel():
                await asyncio.wait({task})
            self._judge(kind, task)
        finally:
            task.cancel()

    def _ask(self) -> Ask:
        tokens = self.rng.choice((1, 4, 20, 100, 400))
        text = prompt_of(self.number * 100_000 + self.asked, self.rng.choice((8, 64, 64, 3000)))
        sampling = SAMPLINGS[self.rng.choice(list(SAMPLINGS))]
        is_hurried = self.rng.random() < 0.15
        return Ask(text, tokens, sampling, self.rng.uniform(0.05, 3) if is_hurried else LIMIT_SECONDS, is_hurried)

    def _judge(self, kind: str, task: asyncio.Future[None]) -> None:
        if task.cancelled():
            self.outcomes["cancelled"] += 1
            return
        error = task.exception()
        if error is None:
            self.outcomes["whole"] += 1
        elif isinstance(error, Late):
            self.outcomes["late"] += 1
        else:
            self.outcomes["violation"] += 1
            self.violations.append(f"{kind}: {type(error).__name__} {error}")

    # -- gRPC ------------------------------------------------------------------------------

    async def completion(self, ask: Ask, **fields: Any) -> None:
        """A prompt, some with log probabilities."""
        await self._generate(ask, ask.text, prompt=ask.text, logprobs=self.rng.random() < 0.2, **fields)

    async def guided(self, ask: Ask) -> None:
        """Output that is constrained; the simulated engine lets it be."""
        await self._generate(ask, ask.text, prompt=ask.text, output_format=self.rng.choice(FORMATS))

    async def chat_with_tools(self, ask: Ask) -> None:
        """A chat of three turns that may call a tool."""
        turns = [("system", "Be brief."), ("user", "Hello"), ("user", ask.text)]
        messages = [generation_pb2.Message(role=role, content=content) for role, content in turns]
        chat = generation_pb2.Chat(messages=messages, tools=[TOOL])
        await self._generate(ask, chat_text(messages), chat=chat, session=f"s{self.number}")

    async def embed(self, ask: Ask) -> None:
        """Vectors of three texts."""
        inputs = [f"{ask.text} {number}" for number in range(3)]
        stub = embedding_pb2_grpc.EmbeddingStub(self.channel)
        try:
            reply = await stub.Embed(embedding_pb2.EmbedRequest(model=MODEL, inputs=inputs), timeout=ask.seconds)
        except grpc.aio.AioRpcError as error:
            raise _failure(error, ask) from None
        vectors = [list(each.values) for each in reply.vectors]
        if vectors != [pytest.approx(vector(text, VECTOR_LENGTH, normalize=True), abs=1e-6) for text in inputs]:
            raise Violation("other vectors")

    async def _generate(self, ask: Ask, rendered: str, **fields: Any) -> None:
        sampling = generation_pb2.Sampling(max_tokens=ask.tokens, **ask.sampling)
        request = generation_pb2.GenerateRequest(model=MODEL, sampling=sampling, **fields)
        check, ids = StreamCheck(), expected_ids(rendered, ask.tokens)
        text = expected_text(rendered, ask.tokens)
        try:
            async for event in generation_pb2_grpc.GenerationStub(self.channel).Generate(request, timeout=ask.seconds):
                check.add(event)
        except grpc.aio.AioRpcError as error:
            self._check_beginning(check, text, ids)
            raise _failure(error, ask) from None
        except asyncio.CancelledError:
            self._check_beginning(check, text, ids)
            raise
        if differences := check.differences(text, ids):
            raise Violation("; ".join(differences))
        assert check.finished is not None
        self.migrations[check.finished.migrations] += 1

    def _check_beginning(self, check: StreamCheck, text: str, ids: list[int]) -> None:
        """A stream that ended early is the beginning of the whole one."""
        if check.faults or not text.startswith(check.text) or ids[: len(check.token_ids)] != check.token_ids:
            self.violations.append(f"the beginning of a stream is wrong: {check.faults} {check.text[-40:]!r}")

    # -- HTTP ------------------------------------------------------------------------------

    async def ollama(self, ask: Ask) -> None:
        """A stream of lines."""
        options = {"num_predict": ask.tokens, **_ollama_options(ask.sampling)}
        lines = await self._lines("/api/generate", {"prompt": ask.text, "raw": True, "options": options}, ask)
        chunks = [json.loads(line) for line in lines]
        _check_text("".join(chunk.get("response", "") for chunk in chunks), ask, chunks[-1:])
        if [chunk.get("done") for chunk in chunks] != [False] * (len(chunks) - 1) + [True]:
            raise Violation("done is not last, or not once")
        if (chunks[-1]["done_reason"], chunks[-1]["eval_count"]) != ("length", ask.tokens):
            raise Violation(f"ends with {chunks[-1]}")

    async def ollama_whole(self, ask: Ask) -> None:
        """One object."""
        options = {"num_predict": ask.tokens, **_ollama_options(ask.sampling)}
        body = {"prompt": ask.text, "raw": True, "stream": False, "options": options}
        [reply] = [json.loads(line) for line in await self._lines("/api/generate", body, ask)]
        _check_text(reply.get("response", ""), ask, reply)

    async def openai(self, ask: Ask) -> None:
        """A stream of server-sent events."""
        sampling = {key: value for key, value in ask.sampling.items() if key != "repetition_penalty"}
        body = {"prompt": ask.text, "stream": True, "max_tokens": ask.tokens, **sampling}
        lines = [line.removeprefix("data: ") for line in await self._lines("/v1/completions", body, ask)]
        if lines[-1] != "[DONE]":
            raise Violation(f"ends with {lines[-1][:200]}")
        choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
        rendered = chat_text([generation_pb2.Message(role="user", content=ask.text)])
        _check_text("".join(choice["text"] for choice in choices), ask._replace(text=rendered), choices[-1:])
        if [choice["finish_reason"] for choice in choices if choice["finish_reason"]] != ["length"]:
            raise Violation("finish_reason is not there once")

    async def ollama_embed(self, ask: Ask) -> None:
        """A vector of one text."""
        [line] = await self._lines("/api/embed", {"input": ask.text}, ask)
        if json.loads(line).get("embeddings") != [
            pytest.approx(vector(ask.text, VECTOR_LENGTH, normalize=True), abs=1e-6)
        ]:
            raise Violation("other vectors")

    async def _lines(self, path: str, body: dict[str, Any], ask: Ask) -> list[str]:
        """Posts a request, and returns the lines of its answer that are not empty."""
        headers = {"Prefer": f"wait={max(ask.seconds, 1):.0f}"} if ask.is_hurried else {}
        limit = aiohttp.ClientTimeout(total=LIMIT_SECONDS)
        request = self.session.post(self.url + path, json={"model": MODEL, **body}, headers=headers, timeout=limit)
        async with request as response:
            text = await response.text()
            if response.status in (503, 504) and ask.is_hurried:
                raise Late
            if response.status != 200:
                raise Violation(f"{response.status} {text[:300]}")
        if ask.is_hurried and "deadline" in text[-400:]:
            raise Late
        return [line for line in text.split("\n") if line]


KINDS = {
    "gRPC completion": ChaosClient.completion,
    "gRPC guided": ChaosClient.guided,
    "gRPC chat with tools": ChaosClient.chat_with_tools,
    "gRPC embed": ChaosClient.embed,
    "HTTP ollama stream": ChaosClient.ollama,
    "HTTP ollama whole": ChaosClient.ollama_whole,
    "HTTP openai stream": ChaosClient.openai,
    "HTTP ollama embed": ChaosClient.ollama_embed,
}


def _failure(error: grpc.aio.AioRpcError, ask: Ask) -> Exception:
    if ask.is_hurried and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Late()
    return Violation(f"{error.code().name} {error.details()}")


def _check_text(text: str, ask: Ask, end: Any) -> None:
    if text != expected_text(ask.text, ask.tokens):
        raise Violation(f"text ends with {text[-40:]!r} after {text.count('.')} tokens of {ask.tokens}; {end}")


def _ollama_options(sampling: dict[str, Any]) -> dict[str, Any]:
    return {{"repetition_penalty": "repeat_penalty"}.get(key, key): value for key, value in sampling.items()}
