"""Who a caller is, and what it may do."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.callers import HTTP_RIGHTS, Access, Caller, http_rights, peer_address, rpc_rights
from vllama_balancer.errors import PermissionDenied, Unauthenticated
from vllama_balancer.keys import ALL_SCOPES, ApiKey, ApiKeys, Scope
from vllama_protos.v1 import embedding_pb2, fleet_pb2, generation_pb2, membership_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.callers import Headers

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1"))
KEYS = ApiKeys([ApiKey("alice", hashlib.sha256(b"secret").digest(), frozenset({Scope.MODELS}))])
ANONYMOUS = frozenset({Scope.INFER, Scope.METRICS})


def headers(*pairs: tuple[str, str]) -> Headers:
    """The headers of a request."""
    return lambda name: [value for key, value in pairs if key == name]


NONE = headers()


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
def test_the_nearest_address_that_no_trusted_proxy_has(peer: str | None, forwarded: Sequence[str], client: str) -> None:
    """Entries further left may be forged."""
    shown = headers(*(("x-forwarded-for", value) for value in forwarded))
    assert Access(proxies=PROXIES).caller(peer, shown).identity == client
    assert Access(proxies=PROXIES).address(peer, shown) == client


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", None])
def test_a_caller_on_this_machine_may_do_everything(peer: str | None) -> None:
    """As with Ollama, where no keys are set."""
    caller = Access().caller(peer, NONE)
    assert (caller.is_local, caller.scopes, caller.is_operator) == (True, ALL_SCOPES, True)


@pytest.mark.parametrize("peer", ["172.17.0.2", "192.168.1.7", "2001:db8::1", "::ffff:172.17.0.2", "nonsense"])
def test_a_caller_from_elsewhere_may_infer(peer: str) -> None:
    """And read the metrics; a container on this machine is elsewhere."""
    caller = Access().caller(peer, NONE)
    assert (caller.is_local, caller.scopes, caller.is_operator) == (False, ANONYMOUS, False)


@pytest.mark.parametrize("name", ["forwarded", "x-forwarded-for", "x-real-ip", "via"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", None])
@pytest.mark.parametrize("value", ["203.0.113.5", "127.0.0.1", ""])
def test_what_a_proxy_forwards_comes_from_elsewhere(peer: str | None, name: str, value: str) -> None:
    """A proxy on this machine has local connections; whatever it claims, without --trusted-proxy it has no rights."""
    caller = Access().caller(peer, headers((name, value)))
    assert (caller.is_local, caller.scopes, caller.identity) == (False, ANONYMOUS, peer or "local")


@pytest.mark.parametrize(
    ("shown", "is_local"),
    [
        ([("x-forwarded-for", "127.0.0.1")], True),
        ([("x-forwarded-for", "203.0.113.5")], False),
        ([("x-forwarded-for", "127.0.0.1, 203.0.113.5")], False),
        ([("x-forwarded-for", "nonsense, 127.0.0.1")], False),
        ([("x-forwarded-for", "")], False),
        ([("forwarded", "for=127.0.0.1")], False),
        ([], True),
    ],
)
def test_a_trusted_proxy_says_whose_request_it_is(shown: Sequence[tuple[str, str]], is_local: bool) -> None:
    """By X-Forwarded-For alone, and only as far as that is whole."""
    access = Access(proxies=[ipaddress.ip_network("127.0.0.1")])
    assert access.caller("127.0.0.1", headers(*shown)).is_local is is_local


def test_a_page_of_a_foreign_name_comes_from_elsewhere() -> None:
    """Its name resolves to this machine, which the Host header shows."""
    access = Access(is_own_host=lambda host: host == "localhost")
    assert access.caller("127.0.0.1", headers(("host", "localhost"))).is_local
    assert not access.caller("127.0.0.1", headers(("host", "evil.com"))).is_local


def test_anonymous_scopes_are_those_of_callers_from_elsewhere() -> None:
    """All, or none."""
    assert Access(anonymous=ALL_SCOPES).caller("192.0.2.1", NONE).scopes == ALL_SCOPES
    assert not Access(anonymous=ALL_SCOPES).caller("192.0.2.1", NONE).is_operator
    assert Access(anonymous=frozenset()).caller("192.0.2.1", NONE).scopes == frozenset()


@pytest.mark.parametrize(
    "shown",
    [
        [("authorization", "Bearer secret")],
        [("authorization", "bearer    secret ")],
        [("x-api-key", "secret")],
        [("authorization", "Basic 7"), ("x-api-key", "secret")],
        [("authorization", "Bearer  "), ("x-api-key", "secret")],
        [("authorization", "Basic 7"), ("authorization", "Bearer secret")],
    ],
)
def test_a_key_has_one_owner_however_it_is_sent(shown: Sequence[tuple[str, str]]) -> None:
    """Turns and limits are those of the owner; the address has no say."""
    for peer in ("127.0.0.1", "192.0.2.1", None):
        caller = Access(KEYS).caller(peer, headers(*shown))
        assert (caller.identity, caller.scopes, caller.is_operator) == ("key:alice", {Scope.MODELS}, False)


@pytest.mark.parametrize("shown", [[], [("authorization", "secret")], [("x-api-key", "wrong")]])
def test_without_a_key_nobody_is_let_in(shown: Sequence[tuple[str, str]]) -> None:
    """Not even a local caller; what is open to all it may see without any rights."""
    access = Access(KEYS)
    with pytest.raises(Unauthenticated):
        access.caller("127.0.0.1", headers(*shown))
    assert access.admitted(frozenset(), "127.0.0.1", headers(*shown)).scopes == frozenset()


def test_a_refusal_names_the_scope_and_the_way_to_it() -> None:
    """For a key its line, for others the flags."""
    with pytest.raises(PermissionDenied) as caught:
        Caller("192.0.2.1", frozenset({Scope.INFER}), "bob").require(Scope.MODELS)
    assert caught.value.field == "models"
    assert str(caught.value) == (
        "this needs the scope models, and the key of bob has infer alone: "
        "write scope=infer,models into its line of the key file"
    )
    with pytest.raises(PermissionDenied, match="--anonymous-scopes infer,fleet,metrics"):
        Caller("192.0.2.1", ANONYMOUS).require(Scope.FLEET)
    with pytest.raises(PermissionDenied, match="the scope infer or models, and callers from elsewhere"):
        Caller("192.0.2.1", frozenset()).require(Scope.MODELS, Scope.INFER)


def test_every_path_has_its_scopes() -> None:
    """A path that the table does not list needs infer."""
    assert {path: rights for path, rights in HTTP_RIGHTS.items() if Scope.INFER in rights or not rights} == {
        "/": frozenset(),
        "/health": frozenset(),
        "/health/live": frozenset(),
        "/health/ready": frozenset(),
        "/api/pull": {Scope.MODELS, Scope.INFER},
    }
    assert http_rights("/api/chat") == {Scope.INFER}
    assert http_rights("/api/create") == http_rights("/api/copy") == http_rights("/api/delete") == {Scope.MODELS}
    assert http_rights("/fleet") == {Scope.FLEET} and http_rights("/metrics") == {Scope.METRICS}


def test_every_call_has_its_scopes() -> None:
    """A service that the table does not list needs fleet."""
    services = {
        service.full_name: rpc_rights(f"/{service.full_name}/Any")
        for file in (generation_pb2, embedding_pb2, fleet_pb2, membership_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    }
    assert services == {
        "vllama.v1.Generation": {Scope.INFER},
        "vllama.v1.Embedding": {Scope.INFER},
        "vllama.v1.Fleet": {Scope.FLEET},
        "vllama.v1.Membership": frozenset(),
    }
    assert rpc_rights("/vllama.v9.New/Call") == {Scope.FLEET}


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:4711", "127.0.0.1"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1"),
        ("unix:", None),
        ("unix:/run/x.sock", None),
        ("unknown", ""),
    ],
)
def test_peers_of_grpc(peer: str, address: str | None) -> None:
    """Its names of peers; an unknown one is no local one."""
    assert peer_address(peer) == address


def test_a_key_makes_no_operator() -> None:
    """Not even one with all scopes on this machine: the list of sources for pulls binds it."""
    keys = ApiKeys([ApiKey("root", hashlib.sha256(b"secret").digest(), ALL_SCOPES)])
    caller = Access(keys).caller("127.0.0.1", headers(("x-api-key", "secret")))
    assert (caller.is_local, caller.scopes, caller.is_operator) == (True, ALL_SCOPES, False)
