"""The time until requests of failed workers went on elsewhere, from the balancer's own histograms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Mapping

REROUTE, RESUME = "vllama_reroute_seconds", "vllama_resume_seconds"


@dataclass(frozen=True)
class Recovery:
    """Counts of both histograms by bound, in seconds: of a whole life of the balancer, or of a part of it."""

    counts: Mapping[str, Mapping[float, float]]

    def since(self, before: Recovery | None) -> Recovery:
        """Takes off what had been counted before."""
        if before is None:
            return self
        return Recovery(
            {
                name: {bound: count - before.counts[name][bound] for bound, count in counts.items()}
                for name, counts in self.counts.items()
            }
        )

    @property
    def rerouted(self) -> int:
        """Times a request was given to another worker."""
        return int(self._total(REROUTE))

    @property
    def reroute_seconds(self) -> float:
        """Bound of the time until the last of them was given to another worker; 0 without any."""
        return self._bound(REROUTE)

    @property
    def resume_seconds(self) -> float:
        """Bound of the time until the last of them was computed there; 0 without any."""
        return self._bound(RESUME)

    def _total(self, name: str) -> float:
        return max(self.counts[name].values())

    def _bound(self, name: str) -> float:
        total = self._total(name)
        return min(bound for bound, count in self.counts[name].items() if count == total) if total else 0.0


async def read_recovery(url: str) -> Recovery:
    """Reads a balancer's metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        families = {family.name: family for family in text_string_to_metric_families(await response.text())}
    return Recovery(
        {
            name: {
                float(sample.labels["le"]): sample.value
                for sample in families[name].samples
                if sample.name.endswith("_bucket")
            }
            for name in (REROUTE, RESUME)
        }
    )
