"""Fleets of small real processes that behave like workers, good and bad ones."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from vllama_balancer.fleet.assignment import HostedModel, WorkerSpec
from vllama_balancer.fleet.local import LocalFleet
from vllama_balancer.fleet.process import Launcher
from vllama_balancer.fleet.restart_policy import RestartSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from vllama_balancer.fleet.events import FleetEvent

SETTINGS = RestartSettings(initial_delay_seconds=0.02, max_delay_seconds=0.1)
"""Pauses short enough for a test."""


class ListSink:
    """A LogSink that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def line(self, worker: str, text: str) -> None:
        if self.error is not None:
            raise self.error
        self.lines.append((worker, text))

    async def printed(self, text: str) -> None:
        """Waits until a line with the text has come."""
        while not any(text in line for _, line in self.lines):
            await asyncio.sleep(0.005)


class Watched:
    """A fleet of scripted workers, the events read so far, and its log."""

    def __init__(self, fleet: LocalFleet, sink: ListSink, errors: list[Exception]) -> None:
        self.fleet = fleet
        self.sink = sink
        self.seen: list[FleetEvent] = []
        self.errors = errors
        """Raised one after the other by the next starts."""
        self._events = fleet.events()

    def add(self, index: int = 0) -> None:
        """Starts one more worker."""
        self.fleet.add(WorkerSpec(index, HostedModel("m", ("m:latest",))))

    async def until(self, wanted: Callable[[FleetEvent], bool], seconds: float = 20.0) -> FleetEvent:
        """Reads events until one matches."""
        async with asyncio.timeout(seconds):
            while True:
                event = await anext(self._events)
                self.seen.append(event)
                if wanted(event):
                    return event


@pytest.fixture
async def fleet_of(tmp_path: Path) -> AsyncIterator[Callable[..., Watched]]:
    """Makes fleets whose workers run a Python script that finds its --parent-fd in `fd`."""
    made: list[LocalFleet] = []

    def make(script: str, settings: RestartSettings = SETTINGS, drain_seconds: float = 5.0) -> Watched:
        errors: list[Exception] = []

        def command(spec: WorkerSpec, address: str, parent_fd: int) -> Sequence[str]:
            if errors:
                raise errors.pop()
            head = f"import os, sys, time, signal, subprocess\nfd = {parent_fd}\naddress = {address!r}\n"
            return [sys.executable, "-S", "-u", "-c", head + script]

        sink = ListSink()
        fleet = LocalFleet(
            Launcher(sink, {}, command), settings, drain_seconds=drain_seconds, runtime_directory=tmp_path
        )
        made.append(fleet)
        return Watched(fleet, sink, errors)

    yield make
    for fleet in made:
        await fleet.close(0.0)


async def gone(pid: int, seconds: float = 10.0) -> None:
    """Waits until a process has ended."""
    async with asyncio.timeout(seconds):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
