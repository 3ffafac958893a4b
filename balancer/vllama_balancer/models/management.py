"""Changes of the installed models by clients: pull, delete, copy, create.

Each change goes to the store and then to the catalog, so that listings and requests never read the disk. Names are
never taken as paths: a client over HTTP must not make this machine read its files.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from vllama_balancer.errors import ModelNotFound
from vllama_balancer.gateway import Progress
from vllama_balancer.models.errors import ModelInUse, write_error
from vllama_balancer.models.manifest import StoredModel
from vllama_balancer.models.pulls import PullQueue, PullRules
from vllama_balancer.names import model_key
from vllama_protos.v1 import presets_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from vllama_balancer.callers import Caller
    from vllama_balancer.gateway import Recipe
    from vllama_balancer.models.catalog import Catalog
    from vllama_balancer.models.resolve import Resolver, Source
    from vllama_balancer.models.store import Store


class LoadedModels(Protocol):
    """What deletion needs of the scheduler."""

    def is_pinned(self, key: str) -> bool:
        """Returns True for a model that is never unloaded."""
        ...

    async def unload(self, key: str) -> object:
        """Unloads a model once it is idle."""
        ...


class StoreManagement:
    """Implements gateway.Management on the store."""

    def __init__(
        self,
        store: Store,
        resolver: Resolver,
        catalog: Catalog,
        loaded: LoadedModels,
        named: Collection[str] = (),
        rules: PullRules | None = None,
    ) -> None:
        """`named` are the models of the command line. `rules` are those of pulls; None: the default ones."""
        self._named = frozenset(map(model_key, named))
        self._rules = rules or PullRules()
        self._queue = PullQueue()
        self._store = store
        self._resolver = resolver
        self._catalog = catalog
        self._loaded = loaded

    async def pull(self, name: str, caller: Caller) -> AsyncGenerator[Progress, None]:
        """Installs a model unless it is installed; yields its progress. Raises ModelError, PermissionDenied."""
        found: StoredModel | Source | None = self._catalog.installed(name)
        if found is None:
            found = await asyncio.to_thread(self._resolver.locate, name, paths=False)
            if isinstance(found, StoredModel):
                await self._install(found)
        if isinstance(found, StoredModel):
            yield Progress("already installed", found.size_bytes, found.size_bytes, f"sha256:{found.weights_digest}")
            return
        self._rules.check(found, caller)
        self._queue.check()
        if self._queue.is_busy:
            yield Progress("waiting for other pulls to end")
        async with self._queue.turn(), aclosing(self._resolver.install(found, self._rules.limits)) as steps:
            async for step in steps:
                yield step
        installed = await asyncio.to_thread(self._store.find, found.name)
        assert installed is not None
        await self._install(installed)

    async def delete(self, name: str) -> None:
        """Removes a name, and the weights that no other name uses. Raises ModelNotFound, ModelInUse."""
        model = self._required(name)
        if self._is_named(model.name):
            raise ModelInUse(
                f"{model.name} is served as long as the server runs; start it without that name to delete it"
            )
        self._catalog.remove(name)
        await self._loaded.unload(model_key(model.name))
        await asyncio.to_thread(self._store.remove, name)

    async def copy(self, source: str, destination: str) -> None:
        """Gives an installed model a second name. Raises ModelNotFound, ModelInUse."""
        model = self._required(source)
        self._check_free(destination)
        parent = model.parent or model.name
        await self._install(await self._copied(model, destination, parent=parent))

    async def create(self, name: str, recipe: Recipe) -> None:
        """Makes an alias with presets. Raises ModelNotFound for an unknown base, ModelInUse."""
        base = self._required(recipe.base)
        self._check_free(name)
        changes: dict[str, object] = {"parent": base.parent or base.name, "presets": _with_recipe(base.presets, recipe)}
        if recipe.license is not None:
            changes["license"] = recipe.license
        await self._install(await self._copied(base, name, **changes))

    async def _copied(self, source: StoredModel, name: str, **changes: object) -> StoredModel:
        """Writes the manifest of a second name. Raises DoesNotFit, ModelError; then the store is as it was."""
        try:
            return await asyncio.to_thread(self._store.copy, source, name, **changes)
        except OSError as error:
            raise write_error(error, self._store.directory) from error

    async def _install(self, model: StoredModel) -> None:
        self._catalog.install(model, await asyncio.to_thread(self._resolver.describe, model))

    def _is_named(self, name: str) -> bool:
        # A path on the command line gets its name when it is loaded: the scheduler has that one.
        key = model_key(name)
        return key in self._named or self._loaded.is_pinned(key)

    def _check_free(self, name: str) -> None:
        """Raises ModelInUse if a new model of this name would replace or hide one that the operator chose."""
        if self._is_named(name):
            raise ModelInUse(
                f"{name} is named on the server's command line and stays as it is as long as the server runs; "
                "choose another name"
            )
        if self._catalog.installed(name) is None and self._catalog.find(name) is not None:
            raise ModelInUse(f"{name} is served by workers that this server did not start; choose another name")

    def _required(self, name: str) -> StoredModel:
        model = self._catalog.installed(name)
        if model is None:
            raise ModelNotFound(f"model {name!r} not found", field="model")
        return model


def _with_recipe(base: presets_pb2.ModelPresets, recipe: Recipe) -> presets_pb2.ModelPresets:
    """Returns the presets of an alias: the recipe's over those of its base."""
    options = {option.name: option for option in (*base.options, *recipe.options)}
    return presets_pb2.ModelPresets(
        system=base.system if recipe.system is None else recipe.system,
        messages=base.messages if recipe.messages is None else recipe.messages,
        template=base.template if recipe.template is None else recipe.template,
        options=options.values(),
    )
