"""Stop signals: the first one drains the worker, the second one aborts."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """The stop requests so far, as two events."""

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        """Set by the first request."""
        self.abort = asyncio.Event()
        """Set by the second."""

    def listen(self, loop: AbstractEventLoop) -> None:
        """Handles SIGTERM and SIGINT as requests from now on."""
        for number in SIGNALS:
            loop.add_signal_handler(number, self.request)

    def request(self) -> None:
        """Sets the first event, then the second."""
        if self.drain.is_set():
            logger.warning("asked to stop again: ending without waiting for streams")
            self.abort.set()
        else:
            logger.info("asked to stop")
            self.drain.set()
