"""Makes the configured models ready to be loaded, before any worker is started."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vllama_balancer.model_key import model_key
from vllama_balancer.models.lines import ProgressLines
from vllama_balancer.models.manifest import StoredModel
from vllama_balancer.names import parse_name

if TYPE_CHECKING:
    from typing import TextIO

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.models.resolve import Resolver


async def installed(names: tuple[str, ...], resolver: Resolver, stream: TextIO) -> list[StoredModel]:
    """Resolves every name, installing what is missing and showing the progress. Raises ModelError."""
    found = []
    for name in names:
        lines = ProgressLines(stream, name)
        try:
            found.append(await resolver.resolve(name, lines.show))
        finally:
            lines.end()
    return found


def simulated(name: str) -> StoredModel:
    """Describes a model of the simulated engine, which needs no weights: any name does."""
    display = parse_name(name).display
    digest = hashlib.sha256(f"simulated:{model_key(name)}".encode()).hexdigest()
    return StoredModel(display, Path(name), digest, 0, "simulated", datetime.now(UTC))


def hosted(model: HostedModel, asked: str) -> HostedModel:
    """Lets a worker answer to the name that was asked for as well, unless that is a path."""
    if asked.startswith(("/", ".", "~")):
        return model
    return replace(model, names=tuple(dict.fromkeys([*model.names, asked])))
