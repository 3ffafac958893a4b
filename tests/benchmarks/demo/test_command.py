"""`vllama demo` against a server that is there already."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.clients.cli.ollama_server import Answer, chunk, last

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.cli.ollama_server import OllamaServer


async def test_all_complete_is_status_0(ollama: OllamaServer, vllama: Callable) -> None:
    """The table names the worker, and the status is 0."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), last()], headers={"x-vllama-worker": "worker-1"})
    done = await vllama("demo", "--url", ollama.url, "--streams", "3")
    assert done.status == 0
    assert "worker-1" in done.out


async def test_one_incomplete_is_status_1(ollama: OllamaServer, vllama: Callable) -> None:
    """The error has their number and the cause of the first."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), {"error": "the worker was lost"}])
    done = await vllama("demo", "--url", ollama.url, "--streams", "3")
    assert done.status == 1
    assert "3 of 3 streams were not complete; the first: the worker was lost" in done.err


async def test_as_json(ollama: OllamaServer, vllama: Callable) -> None:
    """--json prints each stream for a script."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), last()])
    done = await vllama("demo", "--url", ollama.url, "--streams", "2", "--json")
    assert [stream["text"] for stream in json.loads(done.out)] == ["Hi", "Hi"]
