"""The worker's identity: fixed at start, part of every report."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from vllama_server.errors import ModelNotFound


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """The name of a worker, the names of its model, and the id of this process."""

    worker: str
    """Name of the worker."""
    models: tuple[str, ...]
    """Names under which the model is served; at least one, the first is the one to show."""
    boot_id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Random; changes at every start, and with it the caches."""

    def check_model(self, name: str) -> None:
        """Accepts an empty name and any served name, in any case; raises ModelNotFound otherwise."""
        if name and name.casefold() not in (model.casefold() for model in self.models):
            raise ModelNotFound(f"model {name!r} is not served here; this worker serves {', '.join(self.models)}.")
