"""What a keeper asks of the cluster: a seat for one worker, wherever there is room.

Behind a protocol, so that the keeping of workers is tested without a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Placed:
    """A worker process that runs."""

    address: str
    """"host:port" of its gRPC server."""
    node: str
    """Where that is, for people."""


class SeatLost(Exception):
    """The node or the actor of a seat has gone; `str()` is a sentence for people."""


class Seat(Protocol):
    """One worker's reservation: its GPUs on a node, and the actor that holds them."""

    needs: str
    """What it waits for while no node has room, for people: "a node with 1 free GPU"."""

    async def start(self, spec: dict[str, object]) -> Placed:
        """Starts the worker where the seat is, waiting for room as long as it takes.

        Raises SeatLost when the node goes meanwhile, and OSError when the process cannot be started. May be
        called again after either, and after the worker's end: Ray moves the seat to another node by itself.
        """
        ...

    async def ended(self) -> tuple[int, str]:
        """Waits for the worker's end; its exit status and cause. Raises SeatLost when the node goes first."""
        ...

    async def stop(self, timeout_seconds: float) -> None:
        """Lets the worker drain and end, killed after the time-out. Raises SeatLost."""
        ...

    async def leave(self) -> None:
        """Gives the reservation up; what still runs there is killed."""
        ...


class SeatMaker(Protocol):
    """Reserves seats."""

    def __call__(self) -> Seat:
        """Asks for one more seat; returns at once."""
        ...
