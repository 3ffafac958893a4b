"""Whose request it is: the connection's other end, or whom a trusted proxy names.

Turns in the queue and the bound on streams are fair between clients, so whoever could choose what
is read here could take everybody's turns. Only proxies that the operator names are believed; from
the right of X-Forwarded-For, where they wrote, the first address that is none of them is the client.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multidict import CIMultiDictProxy

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOCAL = "local"
"""The client of a connection without an address, such as one over a Unix socket."""


def client_address(peer: str | None, headers: CIMultiDictProxy[str], proxies: Sequence[Network]) -> str:
    """Finds the client's address; `peer` is the connection's other end."""
    if not proxies or peer is None or not _is_within(peer, proxies):
        return peer or LOCAL
    nearest = peer
    hops = ",".join(headers.getall("X-Forwarded-For", ())).split(",")
    for hop in reversed(hops):
        address = _plain(hop)
        if address is None:
            # What stands left of nonsense was not written by a proxy that is trusted.
            break
        nearest = address
        if not _is_within(address, proxies):
            break
    return nearest


def _plain(hop: str) -> str | None:
    """Reads one address, with or without brackets and a port."""
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _is_within(address: str, networks: Sequence[Network]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        # How a socket for both families shows a client of the older one.
        found = found.ipv4_mapped
    return any(found in network for network in networks)
