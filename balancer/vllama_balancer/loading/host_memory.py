"""How much of the host's memory sleeping models may take."""

from __future__ import annotations

import psutil

RESERVED_SHARE = 0.1
"""Share of the host's memory that stays free for everything else: files being read, new workers, other programs."""


def spare_host_memory() -> int:
    """Bytes that a model that falls asleep may take now."""
    memory = psutil.virtual_memory()
    return max(0, int(memory.available - RESERVED_SHARE * memory.total))
