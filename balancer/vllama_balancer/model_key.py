"""Makes one comparable key of every spelling of a model's name."""

from __future__ import annotations

from functools import lru_cache

from vllama_balancer.errors import InvalidRequest
from vllama_balancer.names import parse_name


@lru_cache(maxsize=4096)
def model_key(name: str) -> str:
    """Keys a name; what is no well-formed name (a worker may serve a directory) is compared as text."""
    try:
        return parse_name(name).key
    except InvalidRequest:
        return name.strip().lower()
