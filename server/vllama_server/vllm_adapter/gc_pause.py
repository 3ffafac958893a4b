"""Pause of the garbage collector during the import of many modules.

vLLM and torch create some million objects, and an import makes next to no garbage. Yet the collector scans all of
them again and again while they grow, for a fifth of the import's time. Later each scan would stop every stream.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def gc_paused() -> Iterator[None]:
    """Collects no garbage until the block ends, and never scans the objects that exist by then."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
