"""Balancers that start no workers, and workers that join them, all with certificates of one authority."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.end_to_end.fleet_process import FleetProcess, free_port
from tests.faults.load import MODEL, prompt_of, request_of
from tests.faults.stream_check import expected_text
from vllama_balancer.certificates.folder import CertificateFolder
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

OPTIONS = (("grpc.ssl_target_name_override", "127.0.0.1"), ("grpc.use_local_subchannel_pool", 1))


@dataclass(frozen=True)
class Certificates:
    """A folder with an authority and certificates."""

    path: Path

    def flags(self, name: str, *hosts: str) -> list[str]:
        """Issues a certificate and returns the flags that use it."""
        certificate, key = CertificateFolder(self.path).issue(name, hosts)
        ours = ["--tls-cert", str(certificate), "--tls-key", str(key), "--tls-ca", str(self.path / "ca.pem")]
        return [*ours, "--join-token-file", str(self.path / "join-token")]

    def credentials(self) -> grpc.ChannelCredentials:
        """The client's certificate and the authority, as they are now."""
        certificate, key = self.path / "client.pem", self.path / "client-key.pem"
        if not key.exists():
            CertificateFolder(self.path).issue("client", ["client"])
        authority = (self.path / "ca.pem").read_bytes()
        return grpc.ssl_channel_credentials(authority, key.read_bytes(), certificate.read_bytes())


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """An authority of this test."""
    folder = tmp_path / "certs"
    CertificateFolder(folder).init()
    return Certificates(folder)


class JoinedBalancer(FleetProcess):
    """A balancer of workers that join, called with certificates."""

    def __init__(self, arguments: Sequence[str], log: Path, credentials: Callable[[], grpc.ChannelCredentials]) -> None:
        super().__init__(["--fleet", "none", *arguments], log)
        self._credentials = credentials

    def workers(self) -> list[fleet_pb2.WorkerStatus]:
        with grpc.secure_channel(self.target, self._credentials(), OPTIONS) as channel:
            listed = fleet_pb2_grpc.FleetStub(channel).ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=5)
        return list(listed.workers)

    async def ask(self, count: int, tokens: int, first: int = 0) -> list[str]:
        """Sends so many requests at once and returns the errors."""
        async with grpc.aio.secure_channel(self.target, self._credentials(), OPTIONS) as channel:
            stub = generation_pb2_grpc.GenerationStub(channel)
            answers = await asyncio.gather(*(_answer(stub, first + index, tokens) for index in range(count)))
        return [answer for answer in answers if answer]

    async def until(self, wanted: Callable[[list[fleet_pb2.WorkerStatus]], bool], seconds: float = 60) -> float:
        """Waits until the list of workers matches, and returns how long that took."""
        begun = time.monotonic()
        async with asyncio.timeout(seconds):
            while True:
                try:
                    if wanted(await asyncio.to_thread(self.workers)):
                        return time.monotonic() - begun
                except grpc.RpcError:
                    pass  # it is not up yet
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def _answer(stub: generation_pb2_grpc.GenerationStub, number: int, tokens: int) -> str:
    prompt, text = prompt_of(number, 16), ""
    try:
        async for event in stub.Generate(request_of(prompt, tokens), timeout=90):
            text += event.delta.text
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "" if text == expected_text(prompt, tokens) else f"request {number} was answered with {text[:40]!r}"


@pytest.fixture
def balancer(tmp_path: Path, certificates: Certificates) -> Iterator[Callable[..., JoinedBalancer]]:
    """Makes balancers; starts each and ends them all."""
    made: list[JoinedBalancer] = []

    def make(*hosts: str, listen: str = "127.0.0.1") -> JoinedBalancer:
        flags = certificates.flags(f"balancer{len(made)}", "127.0.0.1", *hosts)
        log = tmp_path / f"balancer{len(made)}.log"
        made.append(JoinedBalancer(["--host", listen, *flags], log, certificates.credentials))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def worker(tmp_path: Path, certificates: Certificates) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts simulated workers that join; ends them all."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        name: str, join: str, *arguments: str, host: str = "127.0.0.1", inside: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        command = [*inside, sys.executable, "-m", "vllama_server", MODEL, "--engine", "fake", "--name", name]
        command += ["--listen", f"{host}:{free_port()}", "--join", join, "--served-name", MODEL]
        command += [*certificates.flags(name, host), *arguments]
        with (tmp_path / f"{name}.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(timeout=60)
