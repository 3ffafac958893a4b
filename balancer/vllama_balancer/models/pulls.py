"""The rules of pulls by clients: who may install what, from where, and how many at once.

A download is a process of its own and takes the disk and the network of all: two run at a time, and some wait.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from vllama_balancer.errors import PermissionDenied
from vllama_balancer.keys import Scope
from vllama_balancer.models.errors import PullsFull
from vllama_balancer.models.resolve import GgufFile, InstallLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable

    from vllama_balancer.callers import Caller
    from vllama_balancer.models.resolve import Source
    from vllama_balancer.models.table import KnownModel

TABLE, ANY = "table", "any"
"""Sources that are no repositories: those of the table of known models, and all."""
AT_ONCE = 2
MOST_WAITING = 16
RETRY_SECONDS = 30.0


class PullRules:
    """What callers may install."""

    def __init__(
        self, table: Iterable[KnownModel] = (), sources: Collection[str] = (), quota_bytes: int | None = None
    ) -> None:
        """`sources` are "table", "any", organizations and repositories; empty: the table's. See InstallLimits."""
        self._known = frozenset(model.repository.lower() for model in table if model.repository)
        self._sources = tuple(sources) or (TABLE,)
        self.limits = InstallLimits(quota_bytes, allows_pickle=False)
        """The limits of every pull."""

    def check(self, source: Source, caller: Caller) -> None:
        """Raises PermissionDenied if a caller may not install from a source.

        The list of sources binds all callers but those on this machine where no keys are set.
        """
        caller.require(Scope.MODELS)
        if caller.is_operator or self._allows(source):
            return
        origin, wider = (source.origin, TABLE) if isinstance(source, GgufFile) else (source.repository,) * 2
        raise PermissionDenied(
            f"{origin} is no source that clients may pull from ({', '.join(self._sources)}): start the server with "
            f"--pull-from {wider} as well, or name the model in `vllama serve`"
        )

    def _allows(self, source: Source) -> bool:
        if ANY in self._sources:
            return True
        if isinstance(source, GgufFile):
            # Clients name no paths: such a file is that of a package in the table.
            return TABLE in self._sources
        repository = source.repository.lower()
        allowed = {each.lower() for each in self._sources}
        return (
            repository in allowed
            or repository.partition("/")[0] in allowed - {TABLE}
            or (TABLE in allowed and repository in self._known)
        )


class PullQueue:
    """Gives turns to pulls, in the order they came."""

    def __init__(self, at_once: int = AT_ONCE, most_waiting: int = MOST_WAITING) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._most_waiting = most_waiting
        self.waiting = 0
        """Pulls without a turn."""

    @property
    def is_busy(self) -> bool:
        """True if a pull would have to wait now."""
        return self._turns.locked()

    def check(self) -> None:
        """Raises PullsFull if no more pulls may wait."""
        if self.is_busy and self.waiting >= self._most_waiting:
            raise PullsFull(
                f"other models are being pulled and {self.waiting} wait; try again later",
                retry_after_seconds=RETRY_SECONDS,
            )

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn, which lasts as long as the block. Raises PullsFull."""
        self.check()
        self.waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns.release()
