"""What holds for every test: nothing that a run starts outlives it."""

from __future__ import annotations

import pytest

from tests.guardian import Guardian

GUARDIAN = pytest.StashKey[Guardian]()


def pytest_configure(config: pytest.Config) -> None:
    """Sets the guardian up before anything is started."""
    config.stash[GUARDIAN] = Guardian()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends what is left over."""
    config.stash[GUARDIAN].release()
