"""The error middleware: every exception becomes a reply in the shape of the path's dialect.

A BalancerError keeps its message. Any other exception becomes "internal error" and a log line without the request's
text.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge import http_errors
from vllama_balancer.edge.body import encode_json
from vllama_balancer.edge.dialect import dialect_of, normalize_path
from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.edge.request_stats import STATS
from vllama_balancer.errors import BalancerError, QueueFull

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from vllama_balancer.edge.dialect import Dialect

_log = logging.getLogger(__name__)


class ErrorMiddleware:
    """Turns the exceptions of handlers and inner middlewares into replies."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self._dialects = dialects

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except QueueFull as error:
            request[STATS].is_refused = True
            return self.answer(request, error)
        except BalancerError as error:
            return self.answer(request, error)
        except web.HTTPException as error:
            return self.answer(request, _from_aiohttp(request, error))
        except web.RequestPayloadError:
            return self.answer(request, HttpError(400, "the request body could not be decoded"))
        except ConnectionError:
            # The client has disconnected; aiohttp closes the connection.
            raise
        except Exception:
            _log.exception("unhandled exception in request %s", request[STATS].request_id)
            return self.answer(request, HttpError(500, "internal error"))

    def answer(self, request: web.Request, error: BalancerError) -> web.Response:
        """Returns the reply in the dialect of the request's path."""
        status = http_errors.http_status(error)
        dialect = dialect_of(normalize_path(request.path), self._dialects)
        body = dialect.error_body(status, http_errors.message(error), request[STATS].request_id)
        response = web.Response(
            status=status,
            body=b"" if request.method == "HEAD" else encode_json(body),
            headers={"Content-Type": "application/json; charset=utf-8", **http_errors.headers(error)},
        )
        if not request.content.at_eof():
            # The rest of an unread body would be parsed as the next request.
            response.force_close()
        return response


def _from_aiohttp(request: web.Request, error: web.HTTPException) -> HttpError:
    if error.status == 404:
        return HttpError(404, f"{request.path} not found")
    if error.status == 405:
        return HttpError(405, f"method {request.method} is not allowed for {request.path}")
    if error.status == 413:
        return HttpError(413, "the request body is too large")
    return HttpError(error.status, error.reason)
