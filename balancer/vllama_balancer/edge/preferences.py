"""Reads how long an HTTP client is ready to wait for its whole answer: `Prefer: wait=SECONDS` (RFC 7240).

gRPC callers send a deadline with every call; this is HTTP's own word for it. Without it a request waits its turn, and
a queue that moves has no bound in time.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from vllama_balancer.errors import InvalidRequest

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([^\",;]*)\"?", re.IGNORECASE)


def wait_seconds(headers: CIMultiDictProxy[str]) -> float | None:
    """Finds the wait that the client prefers; None when it states none. Raises InvalidRequest for no number."""
    for preferences in headers.getall("Prefer", ()):
        if (found := _WAIT.search(preferences)) is not None:
            return _seconds(found[1].strip())
    return None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest("the header Prefer: wait must be a number of seconds above 0: wait=30", field="Prefer")
    return seconds
