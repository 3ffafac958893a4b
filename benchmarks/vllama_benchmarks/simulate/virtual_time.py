"""An event loop whose clock jumps to the next timer instead of waiting for it.

So objects of the balancer that live on asyncio - tasks, locks, timers - run unchanged, and an hour
of theirs takes as long as the code in it. Nothing may wait for the world outside: there is none.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class _Leap(selectors.SelectSelector):
    """Lets the time pass for which it is asked to wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Looks at the loop's own wake-up pipe and nothing else."""
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
        """Tells the made-up time, in seconds."""
        return self._leap.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Calls the function at once: time would leap ahead of a thread."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end in made-up time. Raises RuntimeError when it could only wait for ever."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
