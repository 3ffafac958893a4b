"""Callers: who sends a request and what it may do, decided here for both front doors.

With keys, a caller is the owner of its key. Without, it is its address: a caller on this machine may do everything, as
with Ollama, any other what --anonymous-scopes lists.

The address is the connection's peer, or the one that a trusted proxy forwards. A client must not be able to choose it,
because queueing and limits are fair between callers: only proxies that the operator lists are trusted. Read from the
right of X-Forwarded-For, where they append, the first address that is not a trusted proxy is the caller's.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote

from vllama_balancer.errors import PermissionDenied, Unauthenticated
from vllama_balancer.keys import ALL_SCOPES, Scope, scopes_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_balancer.keys import ApiKeys

    Headers = Callable[[str], Sequence[str]]
    """Returns all values of a header or of a key of gRPC metadata, by its name in lower case."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOCAL = "local"
"""The address of a connection without one, such as one over a Unix socket."""
ANONYMOUS_SCOPES = frozenset({Scope.INFER, Scope.METRICS})
"""Scopes of a caller from elsewhere, where no keys are set."""
FORWARDING_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""A request with one of these was not sent by the connection's peer."""

_OPEN: frozenset[Scope] = frozenset()
_INFER, _FLEET = frozenset({Scope.INFER}), frozenset({Scope.FLEET})
_MODELS = frozenset({Scope.MODELS})

HTTP_RIGHTS = {
    "/": _OPEN,
    "/health": _OPEN,
    "/health/live": _OPEN,
    "/health/ready": _OPEN,
    "/fleet": _FLEET,
    "/metrics": frozenset({Scope.METRICS}),
    "/api/create": _MODELS,
    "/api/copy": _MODELS,
    "/api/delete": _MODELS,
    "/api/push": _MODELS,
    # Clients pull a model before they use it. Installing one needs `models`: the store's management sees to it.
    "/api/pull": frozenset({Scope.MODELS, Scope.INFER}),
}
"""Scopes by path, of which a caller needs one; empty: open to all. Any other path needs `infer`."""
RPC_RIGHTS = {
    "grpc.health.v1.Health": _OPEN,
    # Joining workers show a token of their own.
    "vllama.v1.Membership": _OPEN,
    "vllama.v1.Generation": _INFER,
    "vllama.v1.Embedding": _INFER,
    "grpc.reflection.v1alpha.ServerReflection": _INFER,
}
"""Scopes by gRPC service, as above. Any other service needs `fleet`."""


def http_rights(path: str) -> frozenset[Scope]:
    """Returns the scopes of which a request needs one; the path has no doubled or trailing slashes."""
    return HTTP_RIGHTS.get(path, _INFER)


def rpc_rights(method: str) -> frozenset[Scope]:
    """Returns the scopes of which a call of "/service/method" needs one."""
    return RPC_RIGHTS.get(method.strip("/").partition("/")[0], _FLEET)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of one request."""

    address: str
    """IP address, or LOCAL."""
    scopes: frozenset[Scope]
    owner: str = ""
    """Owner of its API key; empty without a key."""
    is_local: bool = False
    """True if it is a process of this machine, as far as the connection and the headers show."""

    @property
    def identity(self) -> str:
        """Key of fair queueing and of limits."""
        return f"key:{self.owner}" if self.owner else self.address

    @property
    def is_operator(self) -> bool:
        """True for a caller on this machine where no keys are set: as with Ollama, nothing is kept from it."""
        return self.is_local and self.scopes == ALL_SCOPES and not self.owner

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def require(self, *scopes: Scope) -> None:
        """Raises PermissionDenied unless the caller has one of the scopes."""
        if self.scopes.isdisjoint(scopes):
            needed = scopes_text(scopes).replace(",", " or ")
            raise PermissionDenied(f"this needs the scope {needed}, and {self._lack(scopes[0])}", field=scopes[0])

    def _lack(self, needed: Scope) -> str:
        """Returns what the caller has instead, and the way to the scope."""
        wider = scopes_text({*self.scopes, needed})
        if self.owner:
            return (
                f"the key of {self.owner} has {scopes_text(self.scopes)} alone: "
                f"write scope={wider} into its line of the key file"
            )
        return (
            f"callers from elsewhere without a key have {scopes_text(self.scopes) or 'none'}: call localhost on the "
            f"server's machine, or start it with --api-key-file or --anonymous-scopes {wider} (what a proxy forwards "
            "comes from elsewhere, unless --trusted-proxy lists it)"
        )


STRANGER = Caller(LOCAL, frozenset())
"""A caller without rights."""


class Access:
    """Finds out callers and their rights."""

    def __init__(
        self,
        keys: ApiKeys | None = None,
        *,
        anonymous: frozenset[Scope] = ANONYMOUS_SCOPES,
        proxies: Sequence[Network] = (),
        is_own_host: Callable[[str], bool] = lambda host: True,
    ) -> None:
        """`keys` is None where no key is required; then `anonymous` are the scopes of callers from elsewhere.

        `proxies` are the trusted ones: their X-Forwarded-For counts. `is_own_host` recognizes this machine's names: a
        web page whose foreign name resolves to this machine sends a foreign Host.
        """
        self._keys = keys
        self._anonymous = anonymous
        self._proxies = tuple(proxies)
        self._is_own_host = is_own_host

    def address(self, peer: str | None, headers: Headers) -> str:
        """Returns the caller's address; `peer` is the other end of the connection, None for a Unix socket."""
        return self._origin(peer, headers)[0]

    def caller(self, peer: str | None, headers: Headers) -> Caller:
        """Returns the caller of a request. Raises Unauthenticated if it needs a key and shows none or a wrong one."""
        address, is_local = self._origin(peer, headers)
        if self._keys is not None:
            key = self._keys.find(_shown_key(headers))
            return Caller(address, key.scopes, key.owner, is_local)
        return Caller(address, ALL_SCOPES if is_local else self._anonymous, is_local=is_local)

    def visitor(self, peer: str | None, headers: Headers) -> Caller:
        """Returns the caller of what is open to all: one without a valid key has no scopes."""
        try:
            return self.caller(peer, headers)
        except Unauthenticated:
            return Caller(self.address(peer, headers), frozenset())

    def admitted(self, rights: frozenset[Scope], peer: str | None, headers: Headers) -> Caller:
        """Returns the caller of what needs one of these scopes. Raises Unauthenticated or PermissionDenied."""
        if not rights:
            return self.visitor(peer, headers)
        caller = self.caller(peer, headers)
        caller.require(*(scope for scope in Scope if scope in rights))
        return caller

    def is_proxy(self, address: str) -> bool:
        """Returns whether an address is a trusted proxy."""
        return _is_within(address, self._proxies)

    def _origin(self, peer: str | None, headers: Headers) -> tuple[str, bool]:
        """Returns the address, and whether it is one of this machine."""
        is_forwarded = any(map(headers, FORWARDING_HEADERS)) or not all(map(self._is_own_host, headers("host")))
        if peer is None:
            return LOCAL, not is_forwarded
        if not is_forwarded or not _is_within(peer, self._proxies):
            return peer, not is_forwarded and _is_loopback(peer)
        hops = ",".join(headers("x-forwarded-for")).split(",")
        nearest = peer
        for hop in reversed(hops):
            address = _plain(hop)
            if address is None:
                # Everything left of an invalid entry was not written by a trusted proxy: the origin is unknown.
                return nearest, False
            nearest = address
            if not _is_within(address, self._proxies):
                break
        return nearest, _is_loopback(nearest)


def _shown_key(headers: Headers) -> str:
    """Returns the key in `Authorization: Bearer`, else that in `x-api-key`; empty for none."""
    for authorization in headers("authorization"):
        kind, _, key = authorization.partition(" ")
        if kind.lower() == "bearer" and key.strip():
            return key.strip()
    return next(iter(headers("x-api-key")), "")


def peer_address(peer: str) -> str | None:
    """Returns the IP address in gRPC's name of a peer, such as "ipv6:%5B::1%5D:4711"; None for a Unix socket."""
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        return None
    host = unquote(rest).rpartition(":")[0]
    return host.removeprefix("[").removesuffix("]").partition("%")[0]


def _plain(hop: str) -> str | None:
    """Returns an address without brackets and port; None when it is none."""
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    found = _parsed(text)
    return None if found is None else str(found)


def _is_within(address: str, networks: Sequence[Network]) -> bool:
    if not networks:
        return False
    found = _parsed(address)
    return found is not None and any(found in network for network in networks)


@lru_cache(maxsize=4096)
def _is_loopback(address: str) -> bool:
    found = _parsed(address)
    return found is not None and found.is_loopback


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    # A dual-stack socket shows IPv4 clients as IPv6 ones.
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
