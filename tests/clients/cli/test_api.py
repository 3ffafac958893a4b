"""The commands' HTTP client: TLS, prefixes, refusals that are not JSON."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.clients.cli.ollama_server import TAGS, Answer, Hang, chunk, ollama_server
from vllama_clients.cli.address import HttpAddress
from vllama_clients.cli.api import Api
from vllama_clients.cli.failure import CommandFailed, NotServed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.cli.ollama_server import OllamaServer


def api_of(server: OllamaServer, authority: str | None = None) -> Api:
    """A client of that server."""
    scheme, _, rest = server.url.partition("://")
    return Api(HttpAddress(scheme, "localhost", int(rest.rpartition(":")[2])), authority=authority)


@pytest.fixture
def tls(certificate: tuple[bytes, bytes], tmp_path: Path) -> ssl.SSLContext:
    """A server's context with the certificate of localhost."""
    pem = tmp_path / "server.pem"
    pem.write_bytes(certificate[0] + certificate[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_speaks_tls(tls: ssl.SSLContext, certificate: tuple[bytes, bytes]) -> None:
    """With the right authority https works."""
    async with ollama_server(tls) as server:
        server.answers["GET /api/tags"] = Answer([TAGS])
        assert await asyncio.to_thread(api_of(server, certificate[0].decode()).get, "/api/tags") == TAGS


async def test_refuses_a_certificate_of_someone_else(
    tls: ssl.SSLContext, other_certificate: tuple[bytes, bytes]
) -> None:
    """A server with a certificate of an unknown authority is refused."""
    async with ollama_server(tls) as server:
        with pytest.raises(CommandFailed, match="certificate"):
            await asyncio.to_thread(api_of(server, other_certificate[0].decode()).get, "/api/tags")
    assert server.requests == []


async def test_a_404_has_its_own_class(ollama: OllamaServer) -> None:
    """A missing model has an error class of its own."""
    with pytest.raises(NotServed):
        await asyncio.to_thread(api_of(ollama).get, "/nothing")


async def test_a_refusal_that_is_not_json(ollama: OllamaServer) -> None:
    """A proxy's page is quoted."""
    ollama.answers["GET /api/tags"] = Answer(["bad gateway"], 502)
    with pytest.raises(CommandFailed, match="bad gateway"):
        await asyncio.to_thread(api_of(ollama).get, "/api/tags")


async def test_closing_a_stream_closes_the_connection(ollama: OllamaServer) -> None:
    """A reader that stops ends the generation."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), Hang()])
    stream = api_of(ollama).stream("/api/chat", {})
    assert (await asyncio.to_thread(next, stream))["message"]["content"] == "Hi"
    await asyncio.to_thread(stream.close)
    async with asyncio.timeout(10):
        await ollama.left.wait()
