"""The client is the connection's peer, unless a trusted proxy forwards another address."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from vllama_balancer.edge.client_address import client_address
from vllama_balancer.edge.config import EdgeConfig

if TYPE_CHECKING:
    from tests.edge.conftest import Serve
    from vllama_balancer.fake_gateway import FakeGateway

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", ["203.0.113.5"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["203.0.113.9, 203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["203.0.113.9", "203.0.113.5, 10.2.3.4"], "203.0.113.5"),
        ("10.0.0.1", ["10.9.9.9, 10.2.3.4"], "10.9.9.9"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5, nonsense, 10.2.3.4"], "10.2.3.4"),
        ("::1", ["[2001:db8::7]:443"], "2001:db8::7"),
        ("10.0.0.1", ["203.0.113.5:1234"], "203.0.113.5"),
        ("::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        (None, ["203.0.113.5"], "local"),
    ],
)
def test_the_nearest_address_that_no_trusted_proxy_has(peer: str | None, forwarded: list[str], client: str) -> None:
    """Entries further left may be forged."""
    headers = CIMultiDictProxy(CIMultiDict([("X-Forwarded-For", value) for value in forwarded]))
    assert client_address(peer, headers, PROXIES) == client


@pytest.mark.parametrize(
    ("proxies", "client"), [((), "127.0.0.1"), ((ipaddress.ip_network("127.0.0.1"),), "192.0.2.7")]
)
async def test_turns_are_those_of_the_client(
    serve: Serve, gateway: FakeGateway, proxies: tuple[ipaddress.IPv4Network, ...], client: str
) -> None:
    """The gateway gets the client; a header alone changes nothing."""
    async with serve(gateway, EdgeConfig(trusted_proxies=proxies)) as http:
        body = {"model": "smollm2:135m", "prompt": "hi"}
        async with http.post("/api/generate", json=body, headers={"X-Forwarded-For": "192.0.2.7"}) as reply:
            assert reply.status == 200
    assert [call.client for call in gateway.calls] == [client]
