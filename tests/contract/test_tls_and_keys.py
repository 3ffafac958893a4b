"""API keys and TLS on the HTTP and gRPC ports of a whole fleet: real clients succeed with them, and fail without."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import anthropic
import grpc
import ollama
import openai
import pytest

from tests.end_to_end.fleet_process import FleetProcess
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MODEL = "demo:1b"
KEY = "a-key-of-the-tests"
HI: Any = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class ProtectedFleet:
    """A fleet behind TLS that requires keys."""

    http: str
    grpc: str
    certificate: Path

    @property
    def trust(self) -> ssl.SSLContext:
        """Trusts the fleet's certificate alone."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def channel(self) -> grpc.Channel:
        """Opens a channel that trusts it too."""
        return grpc.secure_channel(self.grpc, grpc.ssl_channel_credentials(self.certificate.read_bytes()))


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProtectedFleet]:
    """One simulated worker behind both ports."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine: apt-get install openssl")
    folder = tmp_path_factory.mktemp("protected")
    certificate, key, keys = folder / "cert.pem", folder / "key.pem", folder / "keys"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key)]
    subprocess.run([openssl, *new, "-out", str(certificate), *names], check=True, capture_output=True)
    keys.write_text(f"alice:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    arguments = [MODEL, "--workers", "1", "--engine", "fake", "--api-key-file", str(keys)]
    arguments += ["--tls-cert", str(certificate), "--tls-key", str(key), "--models", str(folder / "models")]
    fleet = FleetProcess(arguments, folder / "fleet.log")
    fleet.start()
    try:
        protected = ProtectedFleet(f"https://localhost:{fleet.http_port}", f"localhost:{fleet.grpc_port}", certificate)
        asyncio.run(_ready(protected, fleet))
        yield protected
    finally:
        fleet.stop()


async def _ready(protected: ProtectedFleet, fleet: FleetProcess) -> None:
    """Waits for /health, which needs no key."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            assert fleet.process is not None
            assert fleet.process.poll() is None, fleet.tail()
            try:
                async with session.get(f"{protected.http}/health", ssl=protected.trust) as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)


def test_ollamas_client(protected: ProtectedFleet) -> None:
    """A bearer header is accepted; without one the error says what to send."""
    with ollama.Client(protected.http, verify=protected.trust, headers={"Authorization": f"Bearer {KEY}"}) as client:
        assert client.chat(MODEL, HI, options={"num_predict": 2}).done
    with (
        ollama.Client(protected.http, verify=protected.trust) as stranger,
        pytest.raises(ollama.ResponseError, match="API key") as caught,
    ):
        stranger.chat(MODEL, HI)
    assert caught.value.status_code == 401


def test_openais_client(protected: ProtectedFleet) -> None:
    """Its key is the key; a wrong one raises its own class."""
    with openai.DefaultHttpxClient(verify=protected.trust) as http:
        options: Any = {"base_url": f"{protected.http}/v1", "http_client": http, "max_retries": 0}
        reply = openai.OpenAI(api_key=KEY, **options).chat.completions.create(model=MODEL, messages=HI, max_tokens=2)
        assert reply.choices[0].message.content
        with pytest.raises(openai.AuthenticationError, match="API key"):
            openai.OpenAI(api_key="wrong", **options).models.list()


def test_anthropics_client(protected: ProtectedFleet) -> None:
    """The same, in its own words."""
    with anthropic.DefaultHttpxClient(verify=protected.trust) as http:
        options: Any = {"base_url": protected.http, "http_client": http, "max_retries": 0}
        anthropic.Anthropic(api_key=KEY, **options).messages.create(model=MODEL, messages=HI, max_tokens=2)
        with pytest.raises(anthropic.AuthenticationError, match="API key"):
            anthropic.Anthropic(api_key="wrong", **options).messages.create(model=MODEL, messages=HI, max_tokens=2)


def test_the_grpc_port(protected: ProtectedFleet) -> None:
    """The same key as metadata; without it neither generations nor the fleet answer."""
    request = generation_pb2.GenerateRequest(model=MODEL, prompt="hi", sampling=generation_pb2.Sampling(max_tokens=2))
    with protected.channel() as channel:
        generation, fleet = generation_pb2_grpc.GenerationStub(channel), fleet_pb2_grpc.FleetStub(channel)
        events = list(generation.Generate(request, metadata=[("authorization", f"Bearer {KEY}")], timeout=30))
        assert events[-1].HasField("finished")
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.RpcError) as refused:
                list(generation.Generate(request, metadata=metadata, timeout=30))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as refused:
            fleet.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=30)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_comes_and_goes_without_a_restart(protected: ProtectedFleet) -> None:
    """The key file counts as it is: a new line is accepted, and a removed one is not."""
    file = protected.certificate.with_name("keys")
    before = file.read_text()
    line = f"guest:{hashlib.sha256(b'a-guest').hexdigest()} scope=infer\n"

    async def answered(session: aiohttp.ClientSession, status: int) -> None:
        async with asyncio.timeout(20):
            while True:
                headers = {"Authorization": "Bearer a-guest"}
                async with session.get(f"{protected.http}/api/tags", headers=headers, ssl=protected.trust) as reply:
                    if reply.status == status:
                        return
                await asyncio.sleep(0.1)

    async with aiohttp.ClientSession() as session:
        await answered(session, 401)
        file.write_text(before + line)
        await answered(session, 200)
        file.write_text(before)
        await answered(session, 401)


def test_a_key_for_inference_changes_nothing(protected: ProtectedFleet) -> None:
    """Over HTTP and gRPC, the line of the file that has no scopes gives inference alone."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with ollama.Client(protected.http, verify=protected.trust, headers=headers) as client:
        for change in (
            lambda: client.create(MODEL, from_=MODEL, system="INJECTED"),
            lambda: client.copy(MODEL, "mine"),
            lambda: client.delete(MODEL),
            lambda: client.pull("hf.co/org/repo"),
        ):
            with pytest.raises(ollama.ResponseError, match="needs the scope models") as refused:
                change()
            assert refused.value.status_code == 403
        assert client.pull(MODEL).status == "success"
    with protected.channel() as channel, pytest.raises(grpc.RpcError) as denied:
        order = fleet_pb2.DrainWorkerRequest(worker="worker-0")
        fleet_pb2_grpc.FleetStub(channel).DrainWorker(order, metadata=[("x-api-key", KEY)], timeout=30)
    assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_plain_http_is_refused(protected: ProtectedFleet) -> None:
    """A client that forgot the scheme is not left hanging."""
    plain = protected.http.replace("https", "http")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(f"{plain}/api/version", timeout=aiohttp.ClientTimeout(20)) as reply:
                await reply.read()
