"""`python -m tests.attacks.watched_balancer FILE ARGUMENTS…`: the balancer, with its event loop watched.

A heartbeat runs once a millisecond. The processor time of the loop's thread between two of them is at least that of any
callback between them. FILE gets the greatest of each tenth of a second, as one number a line, in seconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from vllama_balancer.main import main

if TYPE_CHECKING:
    import asyncio

BEAT_SECONDS = 0.001
WINDOW_SECONDS = 0.1


def watch(loop: asyncio.AbstractEventLoop, path: Path) -> None:
    """Starts the heartbeat of a loop."""
    output = path.open("a", buffering=1)
    last, greatest, until = time.thread_time(), 0.0, time.monotonic() + WINDOW_SECONDS

    def beat() -> None:
        nonlocal last, greatest, until
        now, last_beat = time.thread_time(), last
        last, greatest = now, max(greatest, now - last_beat)
        if time.monotonic() >= until:
            output.write(f"{greatest:.4f}\n")
            greatest, until = 0.0, time.monotonic() + WINDOW_SECONDS
        loop.call_later(BEAT_SECONDS, beat)

    loop.call_soon(beat)


def run(path: Path, arguments: list[str]) -> int:
    """Runs the balancer on watched loops; returns its exit status."""
    make_loop = uvloop.new_event_loop

    def watched() -> asyncio.AbstractEventLoop:
        loop = make_loop()
        watch(loop, path)
        return loop

    uvloop.new_event_loop = watched
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
