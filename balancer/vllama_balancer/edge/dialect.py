"""A dialect: one API's paths, and the shape of its errors.

The edge is put together from dialects that know nothing of one another. Everything that can go
wrong around a handler (an unknown path, a missing key, a body too large) is answered in the
shape of the dialect whose prefix the path has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import web

    from vllama_balancer.edge.edge import Edge


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API."""

    prefix: str
    """Paths that begin with it get this dialect's errors; the longest prefix wins. "/" is any."""
    routes: Callable[[Edge], Sequence[web.RouteDef]]
    """Makes the handlers, bound to an edge."""
    error_body: Callable[[int, str, str], object]
    """From an HTTP status, a sentence and the request's id to the JSON value to answer with."""


def dialect_of(path: str, dialects: Sequence[Dialect]) -> Dialect:
    """Finds the dialect that a path belongs to; one of them must have the prefix "/"."""
    return max((each for each in dialects if path.startswith(each.prefix)), key=lambda each: len(each.prefix))
