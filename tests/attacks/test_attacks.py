"""No attack of one client fails, slows or blames another: innocents ask beside each of them.

Asserted are counts, states and bytes. The times of the printed table are judged in its last column: innocents' p99 at
most twice that beside ordinary requests, callbacks at most 100 ms of processor time.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.attacks.attacks import (
    ATTACKS,
    CLIENTS_OF,
    Target,
    broken_bodies,
    large_constraints,
    many_choices,
    nested_json,
    ordinary_requests,
)
from tests.attacks.fleet import MIB, OPERATOR, WORKERS, AttackedFleet
from tests.attacks.traffic import Innocents

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

REQUEST_BUDGET_BYTES = 96 * MIB
CALLBACK_SECONDS = 0.1
QUICK = {many_choices, nested_json, large_constraints, broken_bodies}
"""Those that `make test` runs as well."""
MARKED = [pytest.param(attack, id=attack.__name__, marks=[pytest.mark.quick] * (attack in QUICK)) for attack in ATTACKS]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedFleet]:
    """One fleet for all attacks: what one of them leaves behind, the next one meets."""
    fleet = AttackedFleet(tmp_path_factory.mktemp("attacked"))
    fleet.start()
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def idle_bytes(fleet: AttackedFleet) -> int:
    """Memory of the balancer before the first attack."""
    fleet.reset_peaks()
    return fleet.peak_bytes()[0]


@pytest.mark.attack
@pytest.mark.timeout(240)
@pytest.mark.parametrize("attack", MARKED)
async def test_others_are_served_beside(
    attack: Callable[[Target], Awaitable[None]], fleet: AttackedFleet, idle_bytes: int, rows: list[str]
) -> None:
    """No innocent fails, no worker dies or is ejected, no request is quarantined, memory stays within the budget."""
    target = Target(fleet.process.http_port, fleet.process.grpc_port)
    ordinary = Innocents(fleet.url)
    await ordinary.beside(ordinary_requests(target, CLIENTS_OF.get(attack, 1)))
    before, log_length = await _state(fleet), len(fleet.log())
    fleet.reset_peaks()

    innocents, began = Innocents(fleet.url), time.monotonic()
    await innocents.beside(attack(target))
    seconds = time.monotonic() - began
    recovery_seconds = await _recovery_seconds(fleet)

    callback_seconds = fleet.longest_callback_seconds()
    balancer_bytes, worker_bytes = fleet.peak_bytes()
    peaks = f"{balancer_bytes // MIB:>12} {worker_bytes // MIB:>10}"
    is_quick = callback_seconds <= CALLBACK_SECONDS and innocents.p99_seconds <= 2 * ordinary.p99_seconds
    rows.append(
        f"{attack.__name__:<28} {len(innocents.seconds):>9} {len(innocents.failures):>6} "
        f"{innocents.p99_seconds:>10.2f} {ordinary.p99_seconds:>8.2f} {seconds:>8.1f} {callback_seconds:>10.3f} "
        f"{peaks} {recovery_seconds:>10.1f}  {'ok' if is_quick else 'SLOW'}"
    )
    assert innocents.failures == []
    assert len(innocents.seconds) > 0
    assert await _state(fleet) == before
    assert balancer_bytes <= idle_bytes + 3 * REQUEST_BUDGET_BYTES
    assert "Traceback" not in fleet.log()[log_length:]


@pytest.mark.attack
@pytest.mark.quick
async def test_innocents_notice_a_missing_answer() -> None:
    """The check can fail: where nothing answers, every innocent has failed."""
    broken = Innocents("http://127.0.0.1:1")
    await broken.beside(asyncio.sleep(0.3))
    assert broken.failures and not broken.seconds


async def _state(fleet: AttackedFleet) -> dict[str, object]:
    """What no attack may change."""
    workers = await asyncio.to_thread(fleet.process.workers)
    return {
        "available": [worker.available for worker in workers] == [True] * WORKERS,
        "processes": sorted((worker.name, worker.pid, worker.restarts) for worker in workers),
        **await _counters(fleet),
    }


async def _counters(fleet: AttackedFleet) -> dict[str, float]:
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with aiohttp.ClientSession(fleet.url, headers=headers) as http, http.get("/metrics") as reply:
        page = await reply.text()
        assert reply.status == 200, page
    watched = ("vllama_worker_ejections_total", "vllama_quarantined_requests_total", "vllama_worker_restarts_total")
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {name: sum(sample.value for sample in samples if sample.name == name) for name in watched}


async def _recovery_seconds(fleet: AttackedFleet) -> float:
    """Returns the time until an innocent is answered and no request is left inside."""
    began = time.monotonic()
    after = Innocents(fleet.url, per_second=1)
    await after.beside(asyncio.sleep(0))
    assert after.failures == []
    return time.monotonic() - began
