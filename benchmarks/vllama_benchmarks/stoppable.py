"""Runs a command's coroutine so that SIGTERM and a closed terminal end it in order, like Ctrl-C.

A command that has started servers must end them, and by default Python ends at once on these signals.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, TypeVar

from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
ResultT = TypeVar("ResultT")


async def stoppable(work: Awaitable[ResultT]) -> ResultT:
    """Awaits the work; one of the signals cancels it and becomes CommandFailed with the status shells expect."""
    received: list[signal.Signals] = []
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def stop(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    # Only the main thread gets signals.
    handled = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    for number in handled:
        loop.add_signal_handler(number, stop, number)
    try:
        return await work
    except asyncio.CancelledError:
        if not received:
            raise
        raise CommandFailed(f"Stopped by {received[0].name}.", status=128 + received[0]) from None
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
