"""A worker behind a router of its own: real addresses, a link that drops everything, and one that recovers.

Three network namespaces: this one with the balancer, a router, and the worker's. The router drops what it should
forward when the test says so, silently, as with a pulled cable or a lost machine.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.balancer.fleet.joining.conftest import JoinedBalancer
    from vllama_protos.v1 import fleet_pb2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DETECTION_SECONDS = 15.0
"""Time within which a link that drops everything has to be noticed."""


def run(command: str) -> None:
    """Runs a command. Raises CalledProcessError, OSError."""
    subprocess.run(command.split(), check=True, capture_output=True, timeout=20)


class Network:
    """The balancer's end, a router, and the worker's end."""

    def __init__(self) -> None:
        number = os.getpid() % 200 + 20
        tag = f"vl{os.getpid() % 100000}"
        self._router, self._far = f"{tag}r", f"{tag}w"
        self.balancer = f"10.231.{number}.1"
        """Address of the balancer as the worker sees it."""
        self.worker = f"10.231.{number}.6"
        """Address of the worker."""
        self.inside = ("ip", "netns", "exec", self._far)
        """Puts a command into the worker's namespace."""
        self._links = (f"{tag}a", f"{tag}b", f"{tag}c", f"{tag}d")
        self._subnet = f"10.231.{number}"

    def make(self) -> None:
        """Makes namespaces, links and routes."""
        near, router_near, router_far, far = self._links
        net, router, worker = self._subnet, self._router, self._far
        for command in (
            f"ip netns add {router}",
            f"ip netns add {worker}",
            f"ip link add {near} type veth peer name {router_near} netns {router}",
            f"ip -n {router} link add {router_far} type veth peer name {far} netns {worker}",
            f"ip addr add {net}.1/30 dev {near}",
            f"ip -n {router} addr add {net}.2/30 dev {router_near}",
            f"ip -n {router} addr add {net}.5/30 dev {router_far}",
            f"ip -n {worker} addr add {net}.6/30 dev {far}",
            f"ip link set {near} up",
            f"ip -n {router} link set {router_near} up",
            f"ip -n {router} link set {router_far} up",
            f"ip -n {worker} link set {far} up",
            f"ip -n {worker} link set lo up",
            f"ip route add {net}.4/30 via {net}.2",
            f"ip -n {worker} route add default via {net}.5",
        ):
            run(command)
        self.forward(True)

    def forward(self, is_on: bool) -> None:
        """Makes the router forward, or drop everything."""
        script = f"echo {int(is_on)} > /proc/sys/net/ipv4/ip_forward"
        subprocess.run(
            ["ip", "netns", "exec", self._router, "sh", "-c", script], check=True, capture_output=True, timeout=20
        )

    def remove(self) -> None:
        """Removes everything; links and routes go with their namespaces."""
        for name in (self._router, self._far):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=20)


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of this test."""
    made = Network()
    try:
        made.make()
    except (OSError, subprocess.SubprocessError) as error:
        made.remove()
        cause = getattr(error, "stderr", b"") or str(error).encode()
        pytest.skip(f"network namespaces cannot be made here: {cause.decode(errors='replace').strip()}")
    yield made
    made.remove()


def is_available(name: str) -> Callable[[list[fleet_pb2.WorkerStatus]], bool]:
    """Makes a condition: the worker of this name takes requests."""
    return lambda workers: any(worker.name.startswith(f"{name}@") and worker.available for worker in workers)


async def test_a_black_holed_link_is_noticed_and_a_healed_one_used_again(
    network: Network, balancer: Callable[..., JoinedBalancer], worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Streams over the dead link continue at the other worker, and the far one is back when the link recovers."""
    one = balancer(network.balancer, listen="0.0.0.0")
    join = f"{network.balancer}:{one.grpc_port}"
    worker("far", join, host=network.worker, inside=network.inside)
    worker("near", one.target)
    await one.until(lambda workers: is_available("far")(workers) and is_available("near")(workers))
    assert await one.ask(8, 20) == []

    streams = asyncio.create_task(one.ask(8, 400, first=100))
    await one.until(lambda workers: all(status.leases for status in workers))
    network.forward(False)
    cut = time.monotonic()
    await one.until(lambda workers: not is_available("far")(workers))
    noticed = time.monotonic() - cut
    assert await streams == []
    carried_on = time.monotonic() - cut
    await one.until(lambda workers: len(workers) == 1, seconds=90)
    forgotten = time.monotonic() - cut
    network.forward(True)
    healed = time.monotonic()
    await one.until(is_available("far"))
    back = time.monotonic() - healed
    print(
        f"black-holed link: out of placement after {noticed:.1f} s, its streams whole after {carried_on:.1f} s, "
        f"off the list (keepalive and lease) after {forgotten:.1f} s; healed link: back after {back:.1f} s"
    )
    assert noticed < DETECTION_SECONDS
    # Keepalive ends the worker's call within 15 s, and its lease lapses 10 s later; the rest is for a busy machine.
    assert forgotten < DETECTION_SECONDS + 10 + 10
    assert len(one.workers()) == 2
    assert await one.ask(8, 20, first=200) == []


async def test_a_short_interruption_costs_no_membership(
    network: Network, balancer: Callable[..., JoinedBalancer], worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """A link that recovers before the lease has expired leaves the same single entry, with the same boot id."""
    one = balancer(network.balancer, listen="0.0.0.0")
    worker("far", f"{network.balancer}:{one.grpc_port}", host=network.worker, inside=network.inside)
    await one.until(is_available("far"))
    (before,) = one.workers()
    network.forward(False)
    await one.until(lambda workers: not is_available("far")(workers))
    network.forward(True)
    took = await one.until(is_available("far"))
    print(f"healed before its lease lapsed: back after {took:.1f} s")
    (after,) = one.workers()
    assert (after.name, after.description.boot_id) == (before.name, before.description.boot_id)
    assert await one.ask(8, 20) == []
