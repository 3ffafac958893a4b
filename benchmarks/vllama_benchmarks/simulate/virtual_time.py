"""An event loop whose clock jumps to the next timer instead of waiting for it.

asyncio code of the balancer (tasks, locks, timers) runs unchanged, and a virtual hour takes as long as the code in it.
Nothing may wait for I/O: there is none.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class _Leap(selectors.SelectSelector):
    """A selector that advances the clock by its timeout instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Polls the loop's own wake-up pipe."""
        if timeout is None:
            raise RuntimeError("every task waits for another one: the simulation would never go on")
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at 0 and never waits."""

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        """Returns the virtual time, in seconds."""
        return self._leap.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Calls the function at once: the clock would jump ahead of a thread."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end in virtual time. RuntimeError if it could only wait for ever."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
