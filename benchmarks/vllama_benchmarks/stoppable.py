"""Runs a command's coroutine so that SIGTERM and a closed terminal end it in order, like Ctrl-C.

A command that has started servers must end them, and Python ends at once on these signals unless
told otherwise.
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
    told: list[signal.Signals] = []
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def stop(number: signal.Signals) -> None:
        told.append(number)
        task.cancel()

    # Only the main thread gets signals.
    heard = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    for number in heard:
        loop.add_signal_handler(number, stop, number)
    try:
        return await work
    except asyncio.CancelledError:
        if not told:
            raise
        raise CommandFailed(f"Stopped by {told[0].name}.", status=128 + told[0]) from None
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
