"""Imports of a great many modules, without looking for garbage meanwhile.

vLLM and torch bring some million objects, and an import makes next to no garbage; yet the collector
looks through all of them again and again while they grow, for a fifth of the time of the import.
Later it would stop every stream for as long as a look at them takes.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def gc_paused() -> Iterator[None]:
    """Collects no garbage until the block ends, and never what has come to be by then."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
