"""Times the renders of the model's own chat template, which run in threads that cannot be ended."""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class RenderWatch:
    """The renders that are running now. Safe to call from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at: dict[int, float] = {}

    def timed(self, render: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the same function, observed."""

        @functools.wraps(render)
        def observed(*args: Any, **kwargs: Any) -> Any:
            thread = threading.get_ident()
            self._started_at[thread] = self._clock()
            try:
                return render(*args, **kwargs)
            finally:
                del self._started_at[thread]

        return observed

    def longest_seconds(self) -> float:
        """Returns how long the oldest running render has taken so far; 0 when none is running."""
        started_at = list(self._started_at.values())
        return self._clock() - min(started_at) if started_at else 0.0
