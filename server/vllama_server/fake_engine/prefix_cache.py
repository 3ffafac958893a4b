"""The block cache of a simulated engine: cached prefixes and room for running streams.

A block is identified by its own content and that of every block before it, so two prompts share blocks exactly as far
as they are equal from the start. Blocks of running streams are pinned; the others are evicted when room is needed,
least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BlockId = bytes
"""Identity of a block: equal for equal content after equal predecessors."""


def block_ids(data: bytes, block_bytes: int) -> list[BlockId]:
    """Returns the ids of the full blocks of a prompt's bytes."""
    ids: list[BlockId] = []
    previous = b""
    for start in range(0, len(data) - block_bytes + 1, block_bytes):
        previous = blake2b(data[start : start + block_bytes], digest_size=8, key=previous).digest()
        ids.append(previous)
    return ids


class PrefixCache:
    """A fixed number of blocks: pinned by streams, reserved for them, cached, or free."""

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity = capacity_blocks
        self._pins: dict[BlockId, int] = {}
        self._cached: OrderedDict[BlockId, None] = OrderedDict()
        self._reserved = 0

    @property
    def capacity_blocks(self) -> int:
        """All blocks."""
        return self._capacity

    @property
    def pinned_blocks(self) -> int:
        """Blocks that running streams use."""
        return len(self._pins)

    @property
    def available_blocks(self) -> int:
        """Blocks that a new stream could have; cached ones can be evicted."""
        return self._capacity - len(self._pins) - self._reserved

    def match(self, ids: Sequence[BlockId]) -> int:
        """Counts the leading blocks that the cache holds."""
        return sum(1 for _ in takewhile(lambda id_: id_ in self._pins or id_ in self._cached, ids))

    def admit(self, held: Sequence[BlockId], reserved_blocks: int) -> bool:
        """Pins blocks that the cache holds and reserves others; returns False if there is no room for both."""
        newly_pinned = sum(1 for id_ in held if id_ not in self._pins)
        if newly_pinned + reserved_blocks > self.available_blocks:
            return False
        for id_ in held:
            self._pin(id_)
        self._reserved += reserved_blocks
        self._evict()
        return True

    def keep(self, id_: BlockId) -> bool:
        """Turns one reserved block into a pinned, shareable one.

        Returns False, and keeps the reservation, when an equal block exists already: then the stream has computed a
        copy of its own.
        """
        if id_ in self._pins or id_ in self._cached:
            return False
        self._reserved -= 1
        self._pins[id_] = 1
        return True

    def release(self, pinned: Sequence[BlockId], reserved_blocks: int) -> None:
        """Releases the blocks of a stream; they stay cached, and the last block of a prefix is evicted first."""
        self._reserved -= reserved_blocks
        for id_ in reversed(pinned):
            self._pins[id_] -= 1
            if not self._pins[id_]:
                del self._pins[id_]
                self._cached[id_] = None

    def clear(self) -> None:
        """Frees every block that no stream uses."""
        self._cached.clear()

    def _pin(self, id_: BlockId) -> None:
        self._cached.pop(id_, None)
        self._pins[id_] = self._pins.get(id_, 0) + 1

    def _evict(self) -> None:
        while len(self._cached) > self.available_blocks:
            self._cached.popitem(last=False)
