"""The Prometheus endpoint of the worker: an HTTP server in a thread of its own, off unless asked for."""

from __future__ import annotations

import errno
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import start_http_server

from vllama_server.errors import ConfigError, StartFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)


@contextmanager
def serve(address: str | None, registry: CollectorRegistry) -> Iterator[int | None]:
    """Serves the registry on host:port until the block ends and gives the real port; None serves nothing.

    Raises StartFailed when the address is in use, ConfigError when it cannot be taken at all.
    """
    if address is None:
        yield None
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        kind = StartFailed if error.errno == errno.EADDRINUSE else ConfigError
        raise kind(f"--metrics: cannot listen on {address}: {error.strerror or error}; pass another address.") from None
    logger.info("metrics on http://%s:%d/metrics", host, server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
