"""The wait in the Prefer header becomes the deadline of the request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.errors import DeadlineExceeded, NoWorker

if TYPE_CHECKING:
    import aiohttp

    from vllama_balancer.errors import BalancerError
    from vllama_balancer.fake_gateway import FakeGateway

BODY = {"model": "smollm2:135m", "prompt": "hi", "stream": False}


@pytest.mark.parametrize(
    ("header", "seconds"), [("wait=20", 20), ("respond-async, wait=1.5", 1.5), ('handling=lenient; Wait = "9"', 9)]
)
async def test_the_preferred_wait_is_the_deadline(
    http: aiohttp.ClientSession, gateway: FakeGateway, header: str, seconds: float
) -> None:
    """Counted from the request's arrival, as gRPC's is."""
    begun = asyncio.get_running_loop().time()
    async with http.post("/api/generate", json=BODY, headers={"Prefer": header}) as reply:
        assert reply.status == 200
    ended = asyncio.get_running_loop().time()
    deadline = gateway.calls[0].deadline
    assert deadline is not None
    # The loop's clock counts in milliseconds.
    assert begun + seconds - 0.01 <= deadline <= ended + seconds + 0.01


@pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}])
async def test_without_one_there_is_no_deadline(
    http: aiohttp.ClientSession, gateway: FakeGateway, headers: dict[str, str]
) -> None:
    """Ollama's clients state none, and wait for as long as it takes."""
    async with http.post("/api/generate", json=BODY, headers=headers) as reply:
        assert reply.status == 200
    assert gateway.calls[0].deadline is None


@pytest.mark.parametrize("wait", ["315360001", "1e18", "1e300"])
async def test_a_wait_of_ages_is_no_deadline(http: aiohttp.ClientSession, gateway: FakeGateway, wait: str) -> None:
    """No message could carry it, and no reply takes ten years."""
    async with http.post("/api/generate", json=BODY, headers={"Prefer": f"wait={wait}"}) as reply:
        assert reply.status == 200
    assert gateway.calls[0].deadline is None


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf", "-inf", "9" * 400, ""])
async def test_a_wait_that_is_no_number_is_refused_by_name(http: aiohttp.ClientSession, value: str) -> None:
    """It is not ignored."""
    async with http.post("/api/generate", json=BODY, headers={"Prefer": f"wait={value}"}) as reply:
        assert reply.status == 400
        assert "Prefer: wait must be a number of seconds" in (await reply.json())["error"]


@pytest.mark.parametrize(
    ("error", "status"), [(NoWorker("no worker", retry_after_seconds=5), 503), (DeadlineExceeded("late"), 504)]
)
async def test_what_ends_the_wait_tells_why(
    http: aiohttp.ClientSession, gateway: FakeGateway, error: BalancerError, status: int
) -> None:
    """No worker: 503 with Retry-After; a worker, but too slow: 504."""
    gateway.play(error)
    async with http.post("/api/generate", json=BODY, headers={"Prefer": "wait=2"}) as reply:
        assert reply.status == status
        assert ("Retry-After" in reply.headers) == (status == 503)
