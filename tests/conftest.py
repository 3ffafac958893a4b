"""What holds for every test: nothing that a run starts outlives it, and in CI no skip goes unseen."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.guardian import Guardian

# How long an example takes depends on what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

pytest_plugins = ["tests.skips", "pytester"]
STARTING_FIXTURES = {"spawn", "vllama_process"}
"""Start processes of the product, a second each on a quiet machine: tests that use them are marked slow."""
GUARDIAN = pytest.StashKey[Guardian]()


def pytest_configure(config: pytest.Config) -> None:
    """Sets the guardian up before anything is started."""
    config.stash[GUARDIAN] = Guardian()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what `make check` leaves out."""
    for item in items:
        if STARTING_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends what is left over."""
    config.stash[GUARDIAN].release()
