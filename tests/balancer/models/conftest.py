"""A store in a temporary directory, and models small enough to write in a test."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.models.manifest import StoredModel
from vllama_balancer.models.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def installed(store: Store) -> Callable[..., StoredModel]:
    """Installs models whose weights are a few bytes."""

    def install(name: str, day: int = 1, weights: str = "w", **presets: object) -> StoredModel:
        directory = store.weights_directory / weights
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "model.safetensors").write_bytes(b"0123456789")
        modified_at = datetime(2026, 1, day, tzinfo=UTC)
        return store.register(StoredModel(name, directory, "a" * 64, 10, "test", modified_at, **presets))

    return install
