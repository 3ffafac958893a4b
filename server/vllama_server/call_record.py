"""What surrounds every call of our services, however it came: its id, its time, its metrics, its line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from vllama_server.errors import EngineFault, WorkerError, status_of
from vllama_server.wire.requests import check_request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vllama_server.metrics import WorkerMetrics

logger = logging.getLogger(__name__)

QUIET_METHODS = frozenset({"Describe", "Watch"})
"""Methods that supervisors call all the time: their lines are for debugging."""


class CallRecord:
    """Records calls from their arrival to their end."""

    def __init__(self, metrics: WorkerMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock

    @contextmanager
    def of(self, method: str, given_id: str) -> Iterator[str]:
        """Surrounds one call, and gives the id that it shall go by: the given one, or one made here.

        Only a WorkerError comes out of it besides a cancellation: InvalidRequest for a wrong id, and
        EngineFault in place of what nobody foresaw, whose cause is logged and not shown.
        """
        started_at = self._clock()
        request_id = uuid.uuid4().hex
        code = grpc.StatusCode.OK
        try:
            if given_id:
                check_request_id(given_id)
                request_id = given_id
            yield request_id
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except WorkerError as error:
            code = status_of(error)
            raise
        except Exception as error:
            code = grpc.StatusCode.INTERNAL
            logger.exception("%s request %s failed", method, request_id)
            raise EngineFault("the worker failed on this request; its log has the cause.") from error
        finally:
            self._close(method, request_id, code, self._clock() - started_at)

    def _close(self, method: str, request_id: str, code: grpc.StatusCode, seconds: float) -> None:
        self._metrics.requests.labels(method, code.name).inc()
        self._metrics.request_seconds.labels(method).observe(seconds)
        level = logging.DEBUG if method in QUIET_METHODS else logging.INFO
        logger.log(level, "%s request %s ended %s after %.3f s", method, request_id, code.name, seconds)
