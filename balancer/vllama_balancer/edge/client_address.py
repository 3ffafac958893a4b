"""The client's address: the connection's peer, or the address that a trusted proxy forwards.

Queueing and the stream limit are fair between clients, so a client must not be able to choose its address. Only
proxies that the operator lists are trusted. Read from the right of X-Forwarded-For, where they append, the first
address that is not a trusted proxy is the client's.
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
    """Returns the client's address; `peer` is the other end of the connection."""
    if not proxies or peer is None or not _is_within(peer, proxies):
        return peer or LOCAL
    nearest = peer
    hops = ",".join(headers.getall("X-Forwarded-For", ())).split(",")
    for hop in reversed(hops):
        address = _plain(hop)
        if address is None:
            # Everything left of an invalid entry was not written by a trusted proxy.
            break
        nearest = address
        if not _is_within(address, proxies):
            break
    return nearest


def _plain(hop: str) -> str | None:
    """Returns an address without brackets and port; None when it is none."""
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
        # A dual-stack socket shows IPv4 clients this way.
        found = found.ipv4_mapped
    return any(found in network for network in networks)
