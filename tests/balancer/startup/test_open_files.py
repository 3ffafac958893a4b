"""The limit of open files is raised, and shared out."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.startup.open_files import most_connections, raise_open_files

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def low_limit() -> Iterator[int]:
    """A soft limit below the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(soft, 1_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    yield low
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_is_raised_once(low_limit: int) -> None:
    """A second call changes nothing."""
    raise_open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == min(65_536, hard if hard != resource.RLIM_INFINITY else 65_536) > low_limit
    raise_open_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


@pytest.mark.parametrize(("open_files", "connections"), [(100, 32), (1_024, 576), (65_536, 16_384)])
def test_connections_leave_files_for_everything_else(open_files: int, connections: int) -> None:
    """A small limit leaves few connections, a large one does not leave more than the process can serve."""
    assert most_connections(open_files) == connections
