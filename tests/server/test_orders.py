"""Orders over mutual TLS: who may drain a worker."""

from __future__ import annotations

from contextlib import asynccontextmanager

import grpc
import pytest

from vllama_balancer.certificates.authority import issue
from vllama_balancer.certificates.folder import CertificateFolder
from vllama_protos.v1 import generation_pb2, worker_pb2
from vllama_protos.v1.generation_pb2_grpc import GenerationStub
from vllama_protos.v1.worker_pb2_grpc import WorkerStub

ORDERS = {
    "Drain": worker_pb2.DrainRequest(),
    "Undrain": worker_pb2.UndrainRequest(),
    "Sleep": worker_pb2.SleepRequest(),
    "Wake": worker_pb2.WakeRequest(),
}


@pytest.fixture
def certificates(tmp_path):
    """A folder with an authority."""
    folder = CertificateFolder(tmp_path)
    folder.init()
    return folder


@pytest.fixture
async def worker(certificates, tmp_path, start_worker):
    """A worker that demands certificates."""
    certificate, key = certificates.issue("gpu7", ["localhost"])
    files = {"tls_certificate": certificate, "tls_key": key, "tls_authority": tmp_path / "ca.pem"}
    return await start_worker(ready=False, listen="localhost:0", **{flag: str(file) for flag, file in files.items()})


@asynccontextmanager
async def called_by(worker, certificate, key, authority):
    """Calls the worker with a certificate and its key."""
    credentials = grpc.ssl_channel_credentials(authority.read_bytes(), key.read_bytes(), certificate.read_bytes())
    async with grpc.aio.secure_channel(worker.server.address, credentials) as channel:
        yield channel


@pytest.mark.parametrize("role", ["worker", "client"])
async def test_only_a_balancer_gives_orders(certificates, worker, tmp_path, role):
    """Another worker's certificate, or a client's, does not drain this one; it may use the model."""
    files = certificates.issue("other", ["elsewhere"], role=role)
    async with called_by(worker, *files, tmp_path / "ca.pem") as channel:
        for name, order in ORDERS.items():
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await getattr(WorkerStub(channel), name)(order)
            assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
            assert f"role {role}" in error.value.details()
        request = generation_pb2.GenerateRequest(prompt="hi", sampling=generation_pb2.Sampling(max_tokens=1))
        assert [event async for event in GenerationStub(channel).Generate(request)]


async def test_a_balancer_drains(certificates, worker, tmp_path):
    """Its certificate has the role."""
    files = certificates.issue("balancer", ["10.0.0.1"])
    async with called_by(worker, *files, tmp_path / "ca.pem") as channel:
        assert await WorkerStub(channel).Drain(worker_pb2.DrainRequest()) is not None


async def test_a_certificate_without_a_role_is_accepted_and_named(certificates, worker, tmp_path, caplog):
    """Certificates of an earlier version work until they expire; the log says once how to renew them."""
    files = certificates.issue("old", ["10.0.0.1"])
    without_role = issue(certificates.authority(), "old", ["10.0.0.1"], 30)
    files[0].write_bytes(without_role.certificate_pem)
    files[1].write_bytes(without_role.key_pem)
    async with called_by(worker, *files, tmp_path / "ca.pem") as channel:
        for _ in range(2):
            assert await WorkerStub(channel).Drain(worker_pb2.DrainRequest()) is not None
    warnings = [record.getMessage() for record in caplog.records if "no role" in record.getMessage()]
    assert len(warnings) == 1
    assert "10.0.0.1" in warnings[0]
