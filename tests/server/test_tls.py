"""The worker's certificates: what is refused, and that renewed ones are used without a restart."""

from pathlib import Path

import grpc
import pytest

from vllama_protos.v1 import worker_pb2, worker_pb2_grpc
from vllama_server.errors import ConfigError
from vllama_server.tls import TlsFiles

CERTIFICATE = str(Path(__file__).parent / "tls" / "certificate.pem")
KEY = str(Path(__file__).parent / "tls" / "key.pem")
"""Of "localhost", for a century, and for nothing but these tests."""
AUTHORITY_PEM = Path(CERTIFICATE).read_bytes()


@pytest.mark.parametrize("pair", [(KEY, KEY), (CERTIFICATE, __file__)])
def test_a_certificate_that_is_none_is_refused(pair):
    """The message names both flags."""
    with pytest.raises(ConfigError, match="--tls-cert and --tls-key"):
        TlsFiles(*pair).server_credentials()


def test_an_authority_that_is_none_is_refused():
    """The message names the flag."""
    with pytest.raises(ConfigError, match="--tls-ca"):
        TlsFiles(CERTIFICATE, KEY, __file__).server_credentials()


async def served(files):
    """A server that demands certificates, and its port."""
    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServicer_to_server(worker_pb2_grpc.WorkerServicer(), server)
    port = server.add_secure_port("localhost:0", files.server_credentials())
    await server.start()
    return server, port


async def outcome(port, credentials):
    """What a caller with these credentials meets: UNIMPLEMENTED once it has got through."""
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await worker_pb2_grpc.WorkerStub(channel).Describe(worker_pb2.DescribeRequest(), timeout=10)
    return error.value.code()


async def test_only_callers_with_a_certificate_of_the_authority_get_in():
    """One that trusts the server and shows nothing is turned away."""
    files = TlsFiles(CERTIFICATE, KEY, CERTIFICATE)
    server, port = await served(files)
    try:
        assert await outcome(port, files.channel_credentials()) is grpc.StatusCode.UNIMPLEMENTED
        anonymous = grpc.ssl_channel_credentials(AUTHORITY_PEM)
        assert await outcome(port, anonymous) is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.stop(None)
