"""Residency and Management where models are fixed: they stay loaded, and none is installed or removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.errors import ModelNotFound
from vllama_balancer.gateway import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from vllama_balancer.callers import Caller
    from vllama_balancer.gateway import Gateway, Recipe


class Pinned:
    """A Residency that changes nothing: all models are pinned."""

    async def load(self, name: str, keep_alive_seconds: float | None) -> None:
        """Returns at once: the model is loaded, or its first request waits for it."""

    async def unload(self, name: str) -> None:
        """Returns at once: the model stays."""

    def keep(self, name: str, keep_alive_seconds: float) -> None:
        """Returns at once: the model stays."""


class FixedModels:
    """A Management that pulls only served models and refuses every change."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def pull(self, name: str, caller: Caller) -> AsyncGenerator[Progress, None]:
        """Yields one step for a served model. Raises ModelNotFound for any other."""
        if self._gateway.find(name) is None:
            raise ModelNotFound(f"no model '{name}' is served here, and none can be installed", field="model")
        yield Progress("verifying that the model is served")

    async def delete(self, name: str) -> None:
        """Raises ModelNotFound or HttpError 403."""
        self._refuse(name)

    async def copy(self, source: str, destination: str) -> None:
        """Raises ModelNotFound or HttpError 403."""
        self._refuse(source)

    async def create(self, name: str, recipe: Recipe) -> None:
        """Raises ModelNotFound or HttpError 403."""
        self._refuse(recipe.base)

    def _refuse(self, name: str) -> NoReturn:
        if self._gateway.find(name) is None:
            raise ModelNotFound(f"model '{name}' not found", field="model")
        raise HttpError(403, "models are fixed by this server's configuration")
