"""Believes which worker's prefix cache holds how much of a request, without asking any worker.

A request's input is cut into fixed blocks; a block's key hashes its bytes and its predecessor's
key, as the engines do with their own blocks, so equal keys mean equal prefixes. What was sent to
a worker is believed to be cached there, and so is what it has generated after it (`replies.py`);
least recently used out first, within the worker's own capacity. `started.cached_prompt_tokens`
corrects the belief; a new life of the worker ends it.

Replies are believed for the sake of long ones: where they have some 600 tokens, the next turns find
their worker, and the tail is shorter (`vllama_benchmarks.simulate`, workload `long-answers`). Replies
of 100 tokens and less, as of agents, make no difference.

Keys come from Python's own keyed hash: they never leave the process, and nobody outside can
construct two inputs that collide.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_BYTES = 256
"""Bytes of input in a block: some 64 tokens, four of an engine's own blocks. What finer ones could tell is a few
milliseconds of prefill, less than the band of equal costs, and each costs time in every decision."""


class Prefix(NamedTuple):
    """An input as blocks."""

    keys: Sequence[int]
    """One for each whole block, in order."""
    tokens_per_block: float
    """Tokens that a block stands for."""

    def tokens(self, blocks: int) -> int:
        """Converts a number of blocks into tokens."""
        return int(blocks * self.tokens_per_block)


def block_keys(data: bytes, after: int = 0) -> list[int]:
    """Cuts bytes into blocks and chains their hashes, to that of a block before; a last partial block is left out."""
    keys = []
    key = after
    for start in range(0, len(data) - BLOCK_BYTES + 1, BLOCK_BYTES):
        key = hash((key, data[start : start + BLOCK_BYTES]))
        keys.append(key)
    return keys


class PrefixIndex:
    """What one life of one worker is believed to have in its prefix cache."""

    def __init__(self, capacity_tokens: int = 0) -> None:
        """Believes nothing yet; a capacity of 0 tokens means that it is unknown."""
        self._capacity_tokens = capacity_tokens or DEFAULT_CAPACITY_TOKENS
        self._tokens_held = 0.0
        # A plain dict would pass over all that has left from its front each time the oldest is asked for.
        self.blocks: OrderedDict[int, float] = OrderedDict()
        """Tokens of the blocks that are held, by key, the oldest first; for reading only."""

    def held_blocks(self, prefix: Prefix) -> int:
        """Counts the leading blocks believed to be cached.

        Bisects: a block is only ever held together with all blocks before it, because they are
        touched from the tail to the head and so leave in that order.
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

    def hold(self, prefix: Prefix) -> None:
        """Believes from now on that the worker has the whole prefix, as the latest it used."""
        blocks, keys, tokens = self.blocks, prefix.keys, prefix.tokens_per_block
        held = self.held_blocks(prefix)
        blocks.update(zip(reversed(keys[held:]), repeat(tokens)))
        self._tokens_held += tokens * (len(keys) - held)
        for key in reversed(keys[:held]):
            blocks.move_to_end(key)
        self._forget_down_to(self._capacity_tokens)

    def missed(self, tokens: int) -> None:
        """Learns that so many tokens believed to be cached were not: as many of the oldest are gone too.

        The worker evicts in the order of use as well; if it lacks what was used lately, it lacks
        everything that was used before.
        """
        self._forget_down_to(self._tokens_held - tokens)

    def _forget_down_to(self, tokens: float) -> None:
        blocks, held = self.blocks, self._tokens_held
        while blocks and held > tokens:
            held -= blocks.popitem(last=False)[1]
        self._tokens_held = held


DEFAULT_CAPACITY_TOKENS = 100_000
"""Bounds the belief where a worker does not tell the size of its cache."""
