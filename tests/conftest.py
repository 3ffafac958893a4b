"""What holds for every test: nothing that a run starts outlives it, and in CI no skip goes unseen."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.guardian import Guardian

# How long an example takes depends on what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

pytest_plugins = ["tests.skips", "pytester"]
GUARDIAN = pytest.StashKey[Guardian]()


def pytest_configure(config: pytest.Config) -> None:
    """Sets the guardian up before anything is started."""
    config.stash[GUARDIAN] = Guardian()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends what is left over."""
    config.stash[GUARDIAN].release()
