"""Ends the process when its threads do not.

Python waits for every thread at its end, and a thread that computes cannot be interrupted: a worker that was asked to
stop would stay, with its engine and its port gone.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time

logger = logging.getLogger(__name__)

LIMIT_SECONDS = 5.0


def limit_exit(status: int, seconds: float = LIMIT_SECONDS) -> None:
    """Gives the process this long to end by itself. Call it last, once everything has been stopped."""
    threading.Thread(target=_end, args=(status, seconds), name="vllama-exit-limit", daemon=True).start()


def _end(status: int, seconds: float) -> None:
    time.sleep(seconds)
    busy = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.is_alive()]
    logger.warning("threads still run %g s after the worker has stopped: %s; ending it", seconds, ", ".join(busy))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
