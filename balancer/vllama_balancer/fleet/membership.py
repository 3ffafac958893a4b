"""Workers that offer themselves: each keeps a lease by keeping its call open.

A worker is known by its address, which only one process can have at a time; so nothing can be counted twice,
however often it calls, and two that share a name are two workers. The lease says only that the worker wants to be
used. Whether it can be is found out as for every other: over the balancer's own connection to it. A partition
therefore does no harm on either side: the worker serves whoever reaches it, the balancer uses whom it reaches.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_balancer.config import values
from vllama_balancer.errors import ConfigError, InvalidRequest, Unauthenticated
from vllama_balancer.fleet.events import Added, Removed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from vllama_balancer.fleet.events import FleetEvent

logger = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""How long a worker stays listed after its call has ended."""
LONGEST_NAME = 128
SHORTEST_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker says when it joins."""

    worker: str
    """Its name, unique or not."""
    boot_id: str
    """Random id of its present life."""
    address: str
    """"host:port"."""
    models: tuple[str, ...] = ()
    """What it serves."""

    @property
    def name(self) -> str:
        """Its name in the fleet."""
        return f"{self.worker}@{self.address}"

    def check(self) -> None:
        """Raises InvalidRequest for a field that cannot be."""
        if (
            not self.worker
            or len(self.worker) > LONGEST_NAME
            or not (self.worker.isascii() and self.worker.isprintable())
        ):
            raise InvalidRequest(f"worker must be printable ASCII of 1 to {LONGEST_NAME} characters", field="worker")
        if not self.boot_id:
            raise InvalidRequest("boot_id is empty: send the id that Describe tells", field="boot_id")
        if self.address.startswith(("unix:", "dns:")) or "," in self.address:
            raise InvalidRequest("address must be host:port, which the balancer can reach", field="address")
        try:
            values.worker_address(self.address)
        except ValueError as error:
            raise InvalidRequest(f"address must be {error}", field="address") from None


@dataclass(eq=False, slots=True)
class JoinLease:
    """One worker's presence, through one call."""

    offer: Offer
    superseded: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a later call for the same address has taken its place."""
    lapse: asyncio.TimerHandle | None = None
    """Once the call has ended: what will remove the worker."""


class JoinedFleet:
    """The workers that have joined: a FleetSource, filled by the front door's Membership service."""

    def __init__(self, token: str, lease_seconds: float = LEASE_SECONDS) -> None:
        """Takes workers that show the token."""
        self._token = token.encode()
        self._leases: dict[str, JoinLease] = {}
        self._outbox: asyncio.Queue[FleetEvent] = asyncio.Queue()
        self.lease_seconds = lease_seconds
        """How long a worker stays after its call has ended."""

    async def events(self) -> AsyncIterator[FleetEvent]:
        """Yields the workers as they join and leave, for one reader."""
        while True:
            yield await self._outbox.get()

    @contextlib.contextmanager
    def lease(self, offer: Offer, token: str) -> Iterator[JoinLease]:
        """Lists the worker inside the block, and for one lease after it.

        Raises Unauthenticated for a wrong token, InvalidRequest for an offer that cannot be.
        """
        if not hmac.compare_digest(token.encode(errors="surrogateescape"), self._token):
            raise Unauthenticated("the token for joining is wrong: give the worker the one of --join-token-file")
        offer.check()
        lease = self._take(offer)
        try:
            yield lease
        finally:
            if not lease.superseded.is_set():
                loop = asyncio.get_running_loop()
                lease.lapse = loop.call_later(self.lease_seconds, self._lapsed, lease)

    def _take(self, offer: Offer) -> JoinLease:
        before = self._leases.get(offer.address)
        lease = self._leases[offer.address] = JoinLease(offer)
        if before is not None:
            before.superseded.set()
            if before.lapse is not None:
                before.lapse.cancel()
        # The same name at the same address goes on as it is, whatever became of its process: its own reports tell.
        if before is None or before.offer.name != offer.name:
            if before is not None:
                self._tell(Removed(before.offer.name, f"gave its address to {offer.name}"))
            logger.info("worker %s has joined", offer.name)
            self._tell(Added(offer.name, offer.address, offer.models))
        return lease

    def _lapsed(self, lease: JoinLease) -> None:
        if self._leases.get(lease.offer.address) is lease:
            del self._leases[lease.offer.address]
            logger.info("worker %s has left", lease.offer.name)
            self._tell(Removed(lease.offer.name, "has left"))

    def _tell(self, event: FleetEvent) -> None:
        self._outbox.put_nowait(event)


def read_token(path: Path) -> str:
    """Reads the token for joining. Raises ConfigError for a file that holds none."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--join-token-file {path} cannot be read: {error}", field="join_token_file") from None
    if len(token) < SHORTEST_TOKEN:
        message = (
            f"--join-token-file {path} must hold {SHORTEST_TOKEN} characters or more; `vllama certs init` makes one"
        )
        raise ConfigError(message, field="join_token_file")
    return token
