"""The edge answers and streams over TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import aiohttp
import pytest

from vllama_balancer.edge.app import build_app
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.fake_gateway import FakeFleet, FakeGateway

if TYPE_CHECKING:
    from pathlib import Path

OPENSSL = shutil.which("openssl")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost, with its key in the same file."""
    if OPENSSL is None:
        pytest.skip("no openssl on this machine: apt-get install openssl")
    file, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command = [OPENSSL, *new, "-keyout", str(key), "-out", str(file), *names]
    subprocess.run(command, check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + key.read_bytes())
    return file


async def test_streams_over_tls(certificate: Path) -> None:
    """Only the scheme differs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = EdgeServer(build_app(FakeGateway(), fleet=FakeFleet()))
    port = await server.start("127.0.0.1", 0, ssl_context=context)
    trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(certificate)))
    body = {"model": "smollm2:135m", "prompt": "hi"}
    async with (
        aiohttp.ClientSession(f"https://localhost:{port}", connector=trusting) as http,
        http.post("/api/generate", json=body) as reply,
    ):
        assert len((await reply.read()).splitlines()) == 3
    await server.stop()
