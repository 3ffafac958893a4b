"""The demo's load and table against a scripted server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from tests.clients.cli.ollama_server import Answer, OllamaServer, chunk, last, ollama_server
from vllama_benchmarks.demo.load import ChatResult, chats
from vllama_benchmarks.demo.table import table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def server() -> AsyncIterator[OllamaServer]:
    """A scripted Ollama server."""
    async with ollama_server() as running:
        yield running


async def test_complete_streams(server: OllamaServer) -> None:
    """Each result has worker, text, tokens and times."""
    server.answers["POST /api/chat"] = Answer([chunk("Hi"), last()], headers={"x-vllama-worker": "worker-1"})
    outcomes = await chats(server.url, "m", 20, 8)
    assert len(outcomes) == 20
    assert all(outcome.complete for outcome in outcomes)
    assert {(outcome.worker, outcome.text, outcome.tokens) for outcome in outcomes} == {("worker-1", "Hi", 20)}
    assert all(outcome.seconds >= (outcome.ttft_seconds or 9) > 0 for outcome in outcomes)


async def test_each_stream_has_its_own_prompt(server: OllamaServer) -> None:
    """No prefix cache can make the numbers better than they are."""
    server.answers["POST /api/chat"] = Answer([chunk("Hi"), last()])
    await chats(server.url, "m", 20, 8)
    assert len({body["messages"][0]["content"] for _, body in server.requests}) == 20


@pytest.mark.parametrize(
    "answer",
    [
        Answer([chunk("Hi")]),
        Answer([last()]),
        Answer([chunk("Hi"), {"error": "lost"}]),
        Answer([{"error": "busy"}], 503),
        Answer(["not json"]),
    ],
    ids=["cut off", "empty", "error in the stream", "refused", "garbage"],
)
async def test_incomplete_streams(server: OllamaServer, answer: Answer) -> None:
    """Whatever is not a whole, non-empty answer is not complete."""
    server.answers["POST /api/chat"] = answer
    assert [outcome.complete for outcome in await chats(server.url, "m", 1, 8)] == [False]


async def test_nobody_there() -> None:
    """A refused connection is an outcome with its reason."""
    (outcome,) = await chats("http://127.0.0.1:1", "m", 1, 8)
    assert not outcome.complete
    assert outcome.error


def test_table_has_a_line_per_worker() -> None:
    """Streams, complete ones, medians and rates stand per worker and in total."""
    outcomes = [
        ChatResult("worker-0", "a", True, 0.1, 1.0, 10),
        ChatResult("worker-0", "a", True, 0.3, 1.0, 10),
        ChatResult("worker-1", "", False, None, 1.0, 0, "lost"),
    ]
    console = Console(record=True, width=100)
    console.print(table(outcomes, 2.0))
    lines = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    assert ["worker-0", "2", "2", "0.20", "s", "0.30", "s", "10.0"] in lines
    assert ["worker-1", "1", "0", "-", "-", "0.0"] in lines
    assert ["all", "3", "2", "0.20", "s", "0.30", "s", "10.0"] in lines
