"""Binding of the worker's address."""

import socket
from pathlib import Path

import grpc
import pytest

from vllama_protos.v1 import worker_pb2
from vllama_protos.v1.worker_pb2_grpc import WorkerStub
from vllama_server import binding
from vllama_server.errors import ConfigError, StartFailed

CERTIFICATE = str(Path(__file__).parent / "tls" / "certificate.pem")
KEY = str(Path(__file__).parent / "tls" / "key.pem")
"""Of "localhost", for a century, and for nothing but these tests."""


@pytest.fixture
async def server():
    """A gRPC server without services."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    yield server
    await server.stop(None)


async def test_port_zero_becomes_a_real_one(server):
    """The returned address can be dialled."""
    address = binding.bind(server, "127.0.0.1:0")
    assert int(address.removeprefix("127.0.0.1:")) > 0


async def test_a_port_in_use_is_one_sentence(server):
    """It names the port, a way to find the process, and the flag."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartFailed, match=rf"--listen: port {port} is in use") as error:
            binding.bind(server, f"127.0.0.1:{port}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [("no-such-host.invalid:50061", "unknown"), ("192.0.2.1:50061", "no address of this machine")],
)
async def test_an_address_that_is_not_here_is_refused(server, address, words):
    """The message has the reason, not an error number."""
    with pytest.raises(ConfigError, match=words):
        binding.bind(server, address)


async def test_a_socket_of_a_live_process_is_in_use(server, tmp_path):
    """It is not taken away from the process that listens there."""
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(StartFailed, match="in use"):
            binding.bind(server, f"unix:{path}")
    assert path.exists()


async def test_a_socket_of_a_dead_process_is_replaced(server, tmp_path):
    """The socket of a crashed process is no obstacle."""
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    assert binding.bind(server, f"unix:{path}") == f"unix:{path}"


async def test_a_file_is_not_replaced(server, tmp_path):
    """Only sockets are removed."""
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="no socket"):
        binding.bind(server, f"unix:{path}")
    assert path.read_text() == "mine"


async def test_a_missing_directory_is_named(server, tmp_path):
    """The message has the fix, too."""
    with pytest.raises(ConfigError, match="create it"):
        binding.bind(server, f"unix:{tmp_path}/missing/w.sock")


def test_releasing_removes_the_socket(tmp_path):
    """Nothing is left behind, and releasing twice is no error."""
    path = tmp_path / "w.sock"
    path.touch()
    for _ in range(2):
        binding.release(f"unix:{path}")
    assert not path.exists()


@pytest.fixture
def trusting():
    """Credentials of a client that trusts the tests' certificate."""
    return grpc.ssl_channel_credentials(Path(CERTIFICATE).read_bytes())


async def test_a_worker_with_a_certificate_speaks_tls(start_worker, trusting):
    """A client that trusts the certificate reaches it; one without TLS does not."""
    worker = await start_worker(listen="localhost:0", tls_certificate=CERTIFICATE, tls_key=KEY, ready=False)
    async with grpc.aio.secure_channel(worker.server.address, trusting) as channel:
        assert (await WorkerStub(channel).Describe(worker_pb2.DescribeRequest())).worker == "worker-0"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await worker.worker.Describe(worker_pb2.DescribeRequest())
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
