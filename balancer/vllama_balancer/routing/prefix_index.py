"""The prefix index: an approximate index of each worker's prefix cache, without asking any worker.

A request's input is cut into fixed blocks. A block's key hashes its bytes and its predecessor's key, as engines do with
their own blocks, so equal keys mean equal prefixes. The input sent to a worker is assumed to be cached there, and so is
the output that follows it (request_size.py); least recently used blocks are dropped first, within the worker's own
capacity. `started.cached_prompt_tokens` corrects the index; a new incarnation of the worker empties it.

Indexing replies pays off for long ones: with some 600 tokens, the next turns find their worker, and the tail latency is
shorter (`vllama simulate`, workload `long-answers`). Replies of 100 tokens and less, as of agents, make no difference.

Keys come from Python's own keyed hash and never leave the process, so no client can construct inputs that collide.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_BYTES = 256
"""Bytes of input in a block: some 64 tokens, four of an engine's own blocks. Finer ones would distinguish a few
milliseconds of prefill, less than the band of equal costs, and each costs time in every decision."""
DEFAULT_CAPACITY_TOKENS = 100_000
"""Capacity of the index if a worker does not report the size of its cache."""


class Prefix(NamedTuple):
    """An input, cut into blocks."""

    keys: Sequence[int]
    """One for each whole block, in order."""
    tokens_per_block: float
    """Tokens that a block stands for."""

    def tokens(self, blocks: int) -> int:
        """Returns the tokens of a number of blocks."""
        return int(blocks * self.tokens_per_block)


def block_keys(data: bytes, after: int = 0) -> list[int]:
    """Returns the chained hashes of all whole blocks; `after` is the key of the block before them."""
    keys = []
    key = after
    for start in range(0, len(data) - BLOCK_BYTES + 1, BLOCK_BYTES):
        key = hash((key, data[start : start + BLOCK_BYTES]))
        keys.append(key)
    return keys


class PrefixIndex:
    """The index of one incarnation of one worker."""

    def __init__(self, capacity_tokens: int = 0) -> None:
        """Begins empty; a capacity of 0 tokens means that it is unknown."""
        self._capacity_tokens = capacity_tokens or DEFAULT_CAPACITY_TOKENS
        self._tokens = 0.0
        # A plain dict would skip all deleted entries at its front each time the oldest is looked up.
        self.blocks: OrderedDict[int, float] = OrderedDict()
        """Tokens of the indexed blocks by key, the oldest first; for reading only."""

    def match(self, prefix: Prefix) -> int:
        """Returns the number of leading blocks that are indexed.

        Bisects: a block is only ever indexed together with all blocks before it, because they are touched from the
        tail to the head and so are dropped in that order.
        """
        keys, blocks = prefix.keys, self.blocks
        if not keys or keys[0] not in blocks:
            return 0
        if keys[-1] in blocks:
            return len(keys)
        low, high = 0, len(keys) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if keys[middle] in blocks:
                low = middle
            else:
                high = middle - 1
        return low + 1

    def insert(self, prefix: Prefix) -> None:
        """Adds the whole prefix, as the most recently used."""
        blocks, keys, tokens = self.blocks, prefix.keys, prefix.tokens_per_block
        held = self.match(prefix)
        blocks.update(zip(reversed(keys[held:]), repeat(tokens)))
        self._tokens += tokens * (len(keys) - held)
        for key in reversed(keys[:held]):
            blocks.move_to_end(key)
        self._shrink_to(self._capacity_tokens)

    def evict(self, tokens: int) -> None:
        """Drops as many of the oldest tokens: the worker has evicted so many tokens that were indexed.

        The worker evicts in the order of use as well; if it lacks recently used blocks, it lacks all older ones.
        """
        self._shrink_to(self._tokens - tokens)

    def _shrink_to(self, tokens: float) -> None:
        blocks, held = self.blocks, self._tokens
        while blocks and held > tokens:
            held -= blocks.popitem(last=False)[1]
        self._tokens = held
