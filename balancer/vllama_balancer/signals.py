"""Stop requests of the process: the first signal drains, the second aborts."""

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
    """Two events, set by the first and the second request to stop."""

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        self.abort = asyncio.Event()

    def listen(self, loop: AbstractEventLoop) -> None:
        """Treats SIGTERM and SIGINT as requests from now on."""
        for number in SIGNALS:
            loop.add_signal_handler(number, self.request)

    def request(self) -> None:
        if self.drain.is_set():
            logger.warning("second stop request: ending without waiting for streams")
            self.abort.set()
        else:
            logger.info("stop requested")
            self.drain.set()
