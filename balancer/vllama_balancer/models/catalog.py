"""The catalog: every model that a request can name, from the store and from the workers' descriptions.

Reading it is cheap and does no I/O, because every request and every listing does.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from vllama_balancer.change_counter import ChangeCounter
from vllama_balancer.fleet.assignment import HostedModel
from vllama_balancer.gateway import LONGEST_SECONDS, ModelEntry
from vllama_balancer.names import model_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from vllama_balancer.models.manifest import StoredModel
    from vllama_protos.v1 import worker_pb2


class HostingWorker(Protocol):
    """What the catalog reads of a worker."""

    @property
    def keys(self) -> Collection[str]:
        """Comparable names of the models that it hosts."""
        ...

    @property
    def description(self) -> worker_pb2.DescribeResponse | None:
        """Its reply to Describe; None before that."""
        ...

    @property
    def unavailable(self) -> str:
        """Why no request may go to it; empty while one may."""
        ...


class Workers(Protocol):
    """What the catalog reads of the pool."""

    def workers(self) -> Sequence[HostingWorker]:
        """Lists the workers."""
        ...


def utc_now() -> datetime:
    return datetime.now(UTC)


class Catalog:
    """Lists and finds models. Names are compared as names.py does."""

    def __init__(self, workers: Workers, now: Callable[[], datetime] = utc_now) -> None:
        self._workers = workers
        self._now = now
        self._installed: dict[str, StoredModel] = {}
        self._expected: frozenset[str] = frozenset()
        self._changes = ChangeCounter()
        self._descriptions: dict[str, worker_pb2.DescribeResponse] = {}
        self._expiry: dict[str, datetime] = {}
        self._first_seen: dict[str, datetime] = {}

    def install(self, model: StoredModel, description: worker_pb2.DescribeResponse | None = None) -> None:
        """Adds a model, replacing one of the same name; `description` is what its files say of it."""
        key = model_key(model.name)
        self._installed[key] = model
        self._descriptions.pop(key, None)
        if description is not None:
            self._descriptions[key] = description
        self._changes.increment()

    def expect(self, names: Collection[str]) -> None:
        """Sets the models being installed; `find_or_wait` waits until one is installed or no longer expected."""
        self._expected = frozenset(map(model_key, names))
        self._changes.increment()

    def expects(self, name: str) -> bool:
        """Returns True for an expected model that is not in the catalog yet."""
        return model_key(name) in self._expected and self.find(name) is None

    def remove(self, name: str) -> None:
        """Removes an installed model; it stays listed while a worker hosts it."""
        self._installed.pop(model_key(name), None)
        self._descriptions.pop(model_key(name), None)

    def installed(self, name: str) -> StoredModel | None:
        """Finds an installed model by any spelling of its name."""
        return self._installed.get(model_key(name))

    def hosted(self, name: str) -> HostedModel | None:
        """Returns what a worker has to host for a model or alias; None if it is not installed here."""
        model = self.installed(name)
        if model is None:
            return None
        host = self._installed[self._target(model)]
        return HostedModel(str(host.weights), (host.name,), host.size_bytes)

    def expires(self, key: str, in_seconds: float | None) -> None:
        """Sets when a model will be unloaded if it stays idle; never if that is None or more than ten years."""
        if in_seconds is None or not abs(in_seconds) <= LONGEST_SECONDS:
            self._expiry.pop(key, None)
        else:
            self._expiry[key] = self._now() + timedelta(seconds=in_seconds)

    def models(self) -> Sequence[ModelEntry]:
        """Lists the models that can be named, newest first."""
        keys = dict.fromkeys(self._installed)
        for worker in self._workers.workers():
            keys |= dict.fromkeys(self._shown(worker))
        entries = [entry for entry in map(self._entry, keys) if entry is not None]
        return sorted(entries, key=lambda entry: entry.modified_at, reverse=True)

    def find(self, name: str) -> ModelEntry | None:
        """Finds a model by any spelling of its name."""
        return self._entry(model_key(name))

    async def find_or_wait(self, name: str) -> ModelEntry | None:
        """Finds a model as `find` does; waits for an expected one."""
        while self.expects(name):
            await self._changes.after(self._changes.version)
        return self.find(name)

    def _shown(self, worker: HostingWorker) -> list[str]:
        """Returns the first name of a worker: the others are found but not listed."""
        description = worker.description
        return [model_key(name) for name in description.models[:1]] if description is not None else []

    def _entry(self, key: str) -> ModelEntry | None:
        installed = self._installed.get(key)
        target = self._target(installed) if installed is not None else key
        hosts = [worker for worker in self._workers.workers() if target in worker.keys]
        described = next((worker.description for worker in hosts if _is_complete(worker.description)), None)
        description = described or self._descriptions.get(key)
        if installed is not None:
            entry = _from_store(installed, self._installed[target].name if target != key else "")
        elif description is not None and description.models:
            entry = self._from_worker(key, description)
        else:
            return None
        return replace(
            entry,
            digest=_digest(entry.digest, description),
            replicas=sum(1 for worker in hosts if not worker.unavailable),
            expires_at=self._expiry.get(target),
            description=description,
        )

    def _target(self, model: StoredModel) -> str:
        """Returns the key of the model whose workers serve this one: the parent's while it is installed."""
        parent = model_key(model.parent) if model.parent else ""
        return parent if parent in self._installed else model_key(model.name)

    def _from_worker(self, key: str, description: worker_pb2.DescribeResponse) -> ModelEntry:
        name = next((name for name in description.models if model_key(name) == key), description.models[0])
        info = description.model_info.SerializeToString(deterministic=True)
        return ModelEntry(
            name=name,
            digest=hashlib.sha256(key.encode() + b"\0" + info).hexdigest(),
            size_bytes=description.model_info.size_bytes,
            modified_at=self._first_seen.setdefault(key, self._now()),
        )


def _is_complete(description: worker_pb2.DescribeResponse | None) -> bool:
    """Returns False for the description of a worker that is still starting: it has little more than a name."""
    return description is not None and bool(description.capabilities)


def _from_store(model: StoredModel, target: str) -> ModelEntry:
    return ModelEntry(
        name=model.name,
        digest=model.digest,
        size_bytes=model.size_bytes,
        modified_at=model.modified_at,
        license=model.license,
        presets=model.presets,
        target=target,
    )


def _digest(of_weights: str, description: worker_pb2.DescribeResponse | None) -> str:
    """Returns a digest that changes with the capabilities: clients cache those by digest."""
    if description is None:
        return of_weights
    capabilities = ",".join(map(str, sorted(description.capabilities)))
    return hashlib.sha256(f"{of_weights}:{capabilities}".encode()).hexdigest()
