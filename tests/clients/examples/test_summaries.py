"""The example service on a real channel."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.clients.scripted_server import Refusal, delta, finished, started
from vllama_clients import SyncClient
from vllama_clients.examples.summaries import Summariser

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.conftest import Server

pytestmark = pytest.mark.slow

BUSY = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "512 wait.", "QUEUE_FULL", retry_after_seconds=1.5)


async def test_every_text_is_summarised(server: Server) -> None:
    """Each text has one result under its name."""
    texts = {f"text {number}": "words" for number in range(12)}
    with SyncClient(server.target) as client:
        found = await asyncio.to_thread(lambda: list(Summariser(client, "m").all(texts, 4)))
    assert sorted(summary.name for summary in found) == sorted(texts)
    assert {summary.summary for summary in found} == {"Hello there"}


async def test_a_full_queue_is_waited_for(server: Server) -> None:
    """The server's own delay is kept, and then the text is tried again."""
    server.script.streams = [[BUSY], [started(), delta("Short."), finished()]]
    waits: list[float] = []
    with SyncClient(server.target) as client:
        summary = await asyncio.to_thread(Summariser(client, "m", sleep=waits.append).one, "a", "words")
    assert (summary.summary, waits) == ("Short.", [1.5])


async def test_a_queue_that_stays_full(server: Server) -> None:
    """After the last attempt the result is the refusal."""
    server.script.streams = [[BUSY]]
    with SyncClient(server.target) as client:
        summary = await asyncio.to_thread(Summariser(client, "m", sleep=lambda _: None).one, "a", "words")
    assert summary.error == "512 wait."
    assert len(server.script.requests) == 5


async def test_one_failure_does_not_end_the_others(server: Server) -> None:
    """A text that fails has its error; the others have their summaries."""
    broken = [Refusal(grpc.StatusCode.INTERNAL, "The engine failed.")]
    server.script.streams = [broken, [started(), delta("Short."), finished()]]
    with SyncClient(server.target) as client:
        found = await asyncio.to_thread(lambda: list(Summariser(client, "m").all({"a": "x", "b": "y"}, 1)))
    assert [(summary.name, summary.error) for summary in found] == [("a", "The engine failed."), ("b", "")]


async def test_as_a_program(server: Server, tmp_path: Path) -> None:
    """Files in, lines of JSON out, progress beside."""
    (tmp_path / "a.txt").write_text("words")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vllama_clients.examples.summaries", "--target", server.target),
        str(tmp_path / "a.txt"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert json.loads(out)["summary"] == "Hello there"
    assert b"1 of 1, 0 failed" in err
    assert process.returncode == 0
