"""Workers that join by calling the balancer: membership lasts as long as the Join stream, and one lease longer.

A worker is identified by its address, which only one process can have at a time: repeated calls do not count twice,
and two workers may share a name. Membership says only that the worker is willing; the pool connects to it and finds
out whether it serves. A network partition therefore harms neither side: a worker serves every balancer that reaches
it, and a balancer uses every worker that it reaches.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from vllama_balancer.config import values
from vllama_balancer.errors import BalancerError, ConfigError, InvalidRequest, Unauthenticated
from vllama_balancer.fleet.events import Added, Removed
from vllama_protos.errors import reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from vllama_balancer.fleet.events import FleetEvent

logger = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""How long a worker stays listed after its call has ended."""
LONGEST_NAME = 128
LONGEST_ADDRESS = 262
"""A host name of 255 characters and a port."""
LONGEST_MODEL_NAME = 256
MOST_MODELS = 64
"""Names of one worker's model."""
MOST_WORKERS = 1024
"""Workers that may join one balancer."""
SHORTEST_TOKEN = 16


class NotAccepted(BalancerError):
    """The worker may not join this balancer, or not now."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = reason_text(ErrorReason.ERROR_REASON_JOINING_NOT_ACCEPTED)


@dataclass(frozen=True, slots=True)
class Offer:
    """The fields with which a worker joins."""

    worker: str
    """Its name, unique or not."""
    boot_id: str
    """Random id of its process."""
    address: str
    """"host:port"."""
    models: tuple[str, ...] = ()
    """Models it serves."""

    @property
    def name(self) -> str:
        """Name of the worker in the fleet."""
        return f"{self.worker}@{self.address}"

    def check(self) -> None:
        """Raises InvalidRequest that names the wrong field."""
        _check_text("worker", self.worker, LONGEST_NAME)
        _check_text("boot_id", self.boot_id, LONGEST_NAME)
        _check_text("address", self.address, LONGEST_ADDRESS)
        if len(self.models) > MOST_MODELS:
            raise InvalidRequest(f"models has more than {MOST_MODELS} names", field="models")
        for model in self.models:
            _check_text("models", model, LONGEST_MODEL_NAME)
        if self.address.startswith(("unix:", "dns:")) or "," in self.address:
            raise InvalidRequest("address must be host:port, which the balancer can reach", field="address")
        try:
            values.worker_address(self.address)
        except ValueError as error:
            raise InvalidRequest(f"address must be {error}", field="address") from None


def _check_text(field: str, text: str, longest: int) -> None:
    if not 0 < len(text) <= longest or not (text.isascii() and text.isprintable()):
        raise InvalidRequest(f"{field} must be printable ASCII of 1 to {longest} characters", field=field)


@dataclass(eq=False, slots=True)
class JoinLease:
    """The membership of one worker, through one call."""

    offer: Offer
    superseded: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a later call for the same address has replaced this one."""
    expiry: asyncio.TimerHandle | None = None
    """Removes the worker; set once the call has ended."""


class JoinedFleet:
    """The workers that have joined: a FleetSource, filled by the front door's Membership service."""

    def __init__(self, token: str, lease_seconds: float = LEASE_SECONDS, *, most_workers: int = MOST_WORKERS) -> None:
        self._token = token.encode()
        self._most_workers = most_workers
        self._leases: dict[str, JoinLease] = {}
        self._events: asyncio.Queue[FleetEvent] = asyncio.Queue()
        self.lease_seconds = lease_seconds
        """How long a worker stays after its call has ended."""

    async def events(self) -> AsyncIterator[FleetEvent]:
        """Yields the workers as they join and leave, for one reader."""
        while True:
            yield await self._events.get()

    def check_token(self, token: str) -> None:
        """Raises Unauthenticated for a wrong token."""
        if not hmac.compare_digest(token.encode(errors="surrogateescape"), self._token):
            raise Unauthenticated("the token for joining is wrong: give the worker the one of --join-token-file")

    @contextlib.contextmanager
    def lease(self, offer: Offer, token: str) -> Iterator[JoinLease]:
        """Lists the worker inside the block, and for `lease_seconds` after it.

        Raises Unauthenticated for a wrong token, InvalidRequest for an invalid offer, and NotAccepted when the
        address is that of another worker whose call lasts, or when the fleet is full.
        """
        self.check_token(token)
        offer.check()
        lease = self._take(offer)
        try:
            yield lease
        finally:
            if not lease.superseded.is_set():
                loop = asyncio.get_running_loop()
                lease.expiry = loop.call_later(self.lease_seconds, self._expire, lease)

    def _take(self, offer: Offer) -> JoinLease:
        before = self._leases.get(offer.address)
        if before is not None and before.expiry is None and before.offer.name != offer.name:
            raise NotAccepted(f"{before.offer.name} is joined at this address; stop it, or offer another address")
        if before is None and len(self._leases) >= self._most_workers:
            raise NotAccepted(f"{self._most_workers} workers have joined this balancer, which takes no more")
        lease = self._leases[offer.address] = JoinLease(offer)
        if before is not None:
            before.superseded.set()
            if before.expiry is not None:
                before.expiry.cancel()
        # The same name at the same address stays the same worker; its own reports show a new process.
        if before is None or before.offer.name != offer.name:
            if before is not None:
                self._emit(Removed(before.offer.name, f"gave its address to {offer.name}"))
            logger.info("worker %s joined", offer.name)
            self._emit(Added(offer.name, offer.address, offer.models))
        return lease

    def _expire(self, lease: JoinLease) -> None:
        if self._leases.get(lease.offer.address) is lease:
            del self._leases[lease.offer.address]
            logger.info("worker %s left", lease.offer.name)
            self._emit(Removed(lease.offer.name, "has left"))

    def _emit(self, event: FleetEvent) -> None:
        self._events.put_nowait(event)


def read_token(path: Path) -> str:
    """Reads the token for joining. Raises ConfigError for a file without a usable token."""
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
