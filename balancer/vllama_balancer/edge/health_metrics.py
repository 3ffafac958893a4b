"""What /health says, as a metric: alerts must tell a fleet that is idle from one that is out of order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Gauge

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry


def register_health_metric(registry: CollectorRegistry, can_serve: Callable[[], bool]) -> None:
    """Registers a gauge that asks at every scrape whether requests can be served."""
    gauge = Gauge("vllama_can_serve", "Whether /health says that requests can be served: 1 or 0.", registry=registry)
    gauge.set_function(lambda: float(can_serve()))
