"""Metrics of the process itself: memory, descriptors and processor time as everywhere, and the event loop's tasks.

A leak of any kind shows in one of them long before it hurts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry, Metric


class TasksCollector(Collector):
    """Counts the tasks of the event loop in which it is scraped."""

    def collect(self) -> Iterable[Metric]:
        """Yields the family with its present value."""
        try:
            tasks = len(asyncio.all_tasks())
        except RuntimeError:  # outside of any event loop, as when a registry asks for names
            tasks = 0
        yield GaugeMetricFamily("vllama_tasks", "Tasks of the event loop, finished ones excluded.", value=tasks)


def register_process_metrics(registry: CollectorRegistry) -> None:
    """Adds the process's own collectors to a registry, once."""
    ProcessCollector(registry=registry)
    registry.register(TasksCollector())
