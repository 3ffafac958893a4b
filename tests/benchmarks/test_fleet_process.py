"""How the demo starts, awaits and ends its fleet, with a stand-in for the balancer process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from vllama_benchmarks.fleet_process import Fleet, started_fleet
from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

STAND_IN = (sys.executable, "-m", "tests.benchmarks.stand_in_balancer")


def fleet(model: str, printed: list[str], timeout_seconds: float = 60) -> AbstractAsyncContextManager[Fleet]:
    """Starts the stand-in as one worker's fleet."""
    return started_fleet(model, 1, ["--engine", "fake"], timeout_seconds, printed.append, STAND_IN)


def children() -> set[int]:
    """The processes that this one has started and that still run."""
    return {child.pid for child in psutil.Process().children() if "stand_in" in " ".join(child.cmdline())}


async def test_waits_until_ready_and_ends_it() -> None:
    """Progress is printed, the addresses differ, and nothing is left running."""
    printed: list[str] = []
    async with fleet("ready", printed) as address:
        assert children()
        assert address.url.rpartition(":")[2] != address.grpc_target.rpartition(":")[2]
    assert printed == ["worker-0: load", "worker-0: ready"]
    assert not children()


async def test_is_ended_when_the_load_fails() -> None:
    """An error in the block ends the fleet and comes through."""
    with pytest.raises(RuntimeError, match="load"):
        async with fleet("ready", []):
            raise RuntimeError("load")
    assert not children()


async def test_a_failed_worker_is_told_with_its_cause() -> None:
    """A worker that cannot serve ends the wait."""
    with pytest.raises(CommandFailed, match="No memory"):
        async with fleet("broken", []):
            pass
    assert not children()


async def test_a_fleet_that_dies_is_told_with_its_log() -> None:
    """The end of what the process wrote is shown."""
    with pytest.raises(CommandFailed, match="starting dies"):
        async with fleet("dies", []):
            pass


async def test_a_fleet_that_takes_too_long() -> None:
    """The time-out ends the waiting and the fleet."""
    with pytest.raises(CommandFailed, match="not ready within"):
        async with fleet("slow", [], timeout_seconds=3):
            pass
    assert not children()


async def test_a_bad_end_is_a_failure() -> None:
    """A fleet that does not drain properly fails the demo."""
    with pytest.raises(CommandFailed, match="status 3"):
        async with fleet("sour", []):
            pass
