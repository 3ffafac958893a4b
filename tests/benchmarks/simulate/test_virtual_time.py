from __future__ import annotations

import asyncio
import time

import pytest

from vllama_benchmarks.simulate import virtual_time


def test_an_hour_passes_at_once() -> None:
    """And tasks wake in the order of their timers."""

    async def main() -> list[tuple[str, float]]:
        loop, woken = asyncio.get_running_loop(), []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append((name, loop.time()))

        await asyncio.gather(sleeper("late", 3600.0), sleeper("early", 5.0))
        return woken

    began = time.monotonic()
    assert virtual_time.run(main()) == [("early", pytest.approx(5.0)), ("late", pytest.approx(3600.0))]
    assert time.monotonic() - began < 60


def test_no_time_passes_in_a_thread() -> None:
    """What is left to a thread is done at once, and its errors arrive."""

    async def main() -> float:
        assert await asyncio.to_thread(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(main()) == 0.0


def test_waiting_for_ever_is_an_error() -> None:
    """Instead of a hang."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="would never go on"):
        virtual_time.run(main())
