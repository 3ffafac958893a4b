"""The doctor's measurements, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.clients.cli.ollama_server import Answer, OllamaServer, ollama_server
from vllama_clients.doctor import probes
from vllama_clients.doctor.findings import Level

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.clients.conftest import Server


@pytest.fixture
async def ollama() -> AsyncIterator[OllamaServer]:
    """A scripted Ollama server."""
    async with ollama_server() as server:
        server.answers["GET /api/version"] = Answer([{"version": "1.0.0"}])
        yield server


@pytest.fixture
def listener() -> Iterator[int]:
    """A port on which this process listens and never answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


def port_of(url: str) -> int:
    """The port at the end of an address."""
    return int(url.rpartition(":")[2])


async def test_an_ollama_server_is_recognised(ollama: OllamaServer) -> None:
    """A server that answers /api/version is an Ollama server."""
    assert await asyncio.to_thread(probes.speaks_ollama, port_of(ollama.url))


async def test_a_grpc_server_is_recognised(server: Server, ollama: OllamaServer) -> None:
    """A server that answers the HTTP/2 preface speaks gRPC; an HTTP/1 server does not."""
    assert await asyncio.to_thread(probes.speaks_grpc, port_of(server.target))
    assert not await asyncio.to_thread(probes.speaks_grpc, port_of(ollama.url))


def test_a_silent_listener_is_neither(listener: int) -> None:
    """A server that does not answer ends the probe soon."""
    assert not probes.speaks_ollama(listener)
    assert not probes.speaks_grpc(listener)


def test_the_owner_of_a_port_is_named(listener: int) -> None:
    """The process that listens is found."""
    assert f"process {os.getpid()}" in probes.owner(listener)


def test_a_free_port_has_no_owner() -> None:
    """A port that was just given back is free."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    assert probes.owner(port) == ""


async def test_the_hub_answers(ollama: OllamaServer) -> None:
    """HF_ENDPOINT is called; a refusal is an answer too."""
    finding = await asyncio.to_thread(probes.hub, {"HF_ENDPOINT": ollama.url, "HF_TOKEN": "t"})
    assert finding.level is Level.OK
    assert [key for key, _ in ollama.requests] == ["HEAD /"]


async def test_a_broken_hub(ollama: OllamaServer) -> None:
    """A server error is trouble."""
    ollama.answers["HEAD /"] = Answer([], 503)
    finding = await asyncio.to_thread(probes.hub, {"HF_ENDPOINT": ollama.url})
    assert (finding.level, "503" in finding.text) == (Level.WARNING, True)


def test_an_absent_hub() -> None:
    """A refused connection is trouble, not an error."""
    assert probes.hub({"HF_ENDPOINT": "http://127.0.0.1:1"}).level is Level.WARNING


def test_offline_asks_nobody() -> None:
    """With HF_HUB_OFFLINE the hub is left alone."""
    assert probes.hub({"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1"}).level is Level.OK


def test_room_of_a_store_that_does_not_exist_yet(tmp_path: Path) -> None:
    """The nearest directory that exists is measured."""
    directory, free_bytes = probes.room({"VLLAMA_MODELS": str(tmp_path / "a" / "b")})
    assert directory == str(tmp_path / "a" / "b")
    assert free_bytes > 0


def test_examine_covers_everything() -> None:
    """On this machine every subject gets a finding."""
    found = list(probes.examine({"HF_HUB_OFFLINE": "1"}, 1, 2))
    subjects = {finding.subject for finding in found}
    assert {"Python", "packages", "engine", "memory", "disk", "open files", "port 1", "port 2", "model hub"} <= subjects
