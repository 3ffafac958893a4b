"""Operators get health, metrics, the fleet and the dashboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from vllama_balancer.fake_gateway import FakeFleet, FakeGateway, model
from vllama_protos.v1 import fleet_pb2, worker_pb2

if TYPE_CHECKING:
    import aiohttp

    from tests.edge.conftest import Serve
    from vllama_balancer.gateway import FleetView


class TwoWorkers:
    """A fleet with one worker that serves and one that has given up."""

    def fleet(self) -> fleet_pb2.ListWorkersResponse:
        """Lists both."""
        good = fleet_pb2.WorkerStatus(
            name="worker-0",
            available=True,
            leases=3,
            description=worker_pb2.DescribeResponse(models=["m:latest"], max_streams=64),
            report=worker_pb2.WorkerReport(
                state=worker_pb2.WORKER_STATE_READY, kv_cache_use=0.25, decode_tokens_per_second=120
            ),
        )
        bad = fleet_pb2.WorkerStatus(
            name="worker-1",
            reason="ended 5 times within 60 s: out of memory",
            report=worker_pb2.WorkerReport(state=worker_pb2.WORKER_STATE_FAILED),
        )
        return fleet_pb2.ListWorkersResponse(workers=[good, bad], queued_requests=7)


async def test_health_is_ok_while_a_model_can_answer(serve: Serve) -> None:
    """One worker of two is enough, and the other is named with its reason."""
    async with serve(FakeGateway(), fleet=TwoWorkers()) as http, http.get("/health") as reply:
        assert reply.status == 200
        assert await reply.json() == {
            "status": "degraded",
            "models": ["smollm2:135m"],
            "workers": {"worker-0": "ready", "worker-1": "failed: ended 5 times within 60 s: out of memory"},
            "loading": {},
            "asleep": [],
        }


class DyingWorker:
    """A fleet of one worker that serves, between two deaths."""

    def fleet(self) -> fleet_pb2.ListWorkersResponse:
        """Lists it."""
        ready = worker_pb2.WorkerReport(state=worker_pb2.WORKER_STATE_READY)
        dying = fleet_pb2.WorkerStatus(name="w", available=True, report=ready, deaths=2, last_death="CUDA error")
        return fleet_pb2.ListWorkersResponse(workers=[dying])


async def test_a_worker_that_dies_again_and_again_is_told(serve: Serve) -> None:
    """With its own words, in the health and in the fleet."""
    async with serve(FakeGateway(), fleet=DyingWorker()) as http:
        async with http.get("/health") as reply:
            assert (await reply.json())["workers"] == {"w": "ready, died 2 times, the last time: CUDA error"}
        async with http.get("/fleet") as reply:
            worker = (await reply.json())["workers"][0]
            assert (worker["deaths"], worker["last_death"]) == (2, "CUDA error")


async def test_health_is_503_while_nothing_is_loaded(serve: Serve) -> None:
    """A load balancer must send no request yet; the process itself is alive."""
    async with serve(FakeGateway(model(replicas=0))) as http:
        async with http.get("/health") as reply:
            assert reply.status == 503
            assert (await reply.json())["status"] == "unavailable"
        async with http.get("/health/live") as reply:
            assert reply.status == 200


class Moving:
    """A fleet with models on demand: one loads, one waits, one sleeps."""

    def fleet(self) -> fleet_pb2.ListWorkersResponse:
        """Lists them."""
        loading = fleet_pb2.WorkerStatus(
            name="worker-0",
            reason="is starting: loading weights 40%",
            report=worker_pb2.WorkerReport(state=worker_pb2.WORKER_STATE_STARTING),
        )
        asleep = fleet_pb2.WorkerStatus(
            name="worker-1", reason="is asleep", report=worker_pb2.WorkerReport(state=worker_pb2.WORKER_STATE_SLEEPING)
        )
        models = [
            fleet_pb2.ModelStatus(
                model="a:latest", state=fleet_pb2.MODEL_STATE_LOADING, workers=["worker-0"], requests=3
            ),
            fleet_pb2.ModelStatus(model="b:latest", state=fleet_pb2.MODEL_STATE_WAITING, requests=1),
            fleet_pb2.ModelStatus(model="d:latest", state=fleet_pb2.MODEL_STATE_LOADING, workers=["worker-0"]),
            fleet_pb2.ModelStatus(model="c:latest", state=fleet_pb2.MODEL_STATE_SLEEPING, workers=["worker-1"]),
        ]
        return fleet_pb2.ListWorkersResponse(workers=[loading, asleep], models=models, loads_on_demand=True)


async def test_health_tells_what_is_loaded_and_how_far(serve: Serve) -> None:
    """Requests wait and are served, so a load balancer may send them."""
    async with serve(FakeGateway(model(replicas=0)), fleet=Moving()) as http, http.get("/health") as reply:
        assert reply.status == 200
        assert await reply.json() == {
            "status": "idle",
            "models": [],
            "workers": {"worker-0": "starting: loading weights 40%", "worker-1": "asleep"},
            "loading": {
                "a:latest": "starting: loading weights 40% on worker-0; 3 requests wait",
                "b:latest": "waits for a worker that is in use; 1 request waits",
                "d:latest": "starting: loading weights 40% on worker-0",
            },
            "asleep": ["c:latest"],
        }


async def test_workers_that_load_or_sleep_are_not_out_of_order(serve: Serve) -> None:
    """With a model that answers, the fleet is in order."""
    async with serve(FakeGateway(), fleet=Moving()) as http, http.get("/health") as reply:
        assert (await reply.json())["status"] == "ok"


@pytest.mark.parametrize(("fleet", "value"), [(Moving(), "1.0"), (FakeFleet(), "0.0")], ids=["idle", "nothing"])
async def test_the_metric_for_alerts_is_what_health_says(serve: Serve, fleet: FleetView, value: str) -> None:
    """Sleeping models, and models loaded on demand, raise no alert."""
    async with serve(FakeGateway(model(replicas=0)), fleet=fleet) as http, http.get("/metrics") as reply:
        assert f"\nvllama_can_serve {value}\n" in await reply.text()


async def test_the_fleet_as_json(serve: Serve) -> None:
    """The dashboard's data: workers, queue, and recent times to first token."""
    async with serve(FakeGateway(), fleet=TwoWorkers()) as http:
        async with http.post("/api/generate", json={"model": "smollm2:135m", "prompt": "hi"}) as reply:
            await reply.read()
        async with http.get("/fleet") as reply:
            fleet = await reply.json()
    assert fleet["queued_requests"] == 7
    assert [worker["state"] for worker in fleet["workers"]] == ["ready", "failed"]
    assert fleet["workers"][0]["decode_tokens_per_second"] == 120
    assert len(fleet["ttft_seconds"]) == 1


async def test_metrics_are_prometheus(serve: Serve) -> None:
    """Requests are counted by the pattern of their path, so that labels stay few."""
    registry = CollectorRegistry()
    async with serve(FakeGateway(), registry=registry) as http:
        for path in ("/api/version", "/v1/models/a", "/v1/models/b", "/nothing/1", "/nothing/2"):
            async with http.get(path) as reply:
                await reply.read()
        async with http.get("/metrics") as reply:
            assert reply.headers["Content-Type"].startswith("text/plain; version=")
            text = await reply.text()
    assert 'vllama_http_requests_total{path="/api/version",status="200"} 1.0' in text
    paths = set(re.findall(r'vllama_http_requests_total\{path="([^"]*)"', text))
    assert len(paths) == 3


async def test_a_browser_gets_the_page(http: aiohttp.ClientSession) -> None:
    """One file that loads nothing from anywhere."""
    async with http.get("/", headers={"Accept": "text/html,application/xhtml+xml"}) as reply:
        assert reply.content_type == "text/html"
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        page = await reply.text()
    assert "<title>vllama</title>" in page
    assert not re.search(r"(?:src|href)\s*=|@import|url\(", page)


async def test_any_other_client_gets_a_line(http: aiohttp.ClientSession) -> None:
    """Tools look for Ollama's words."""
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        async with http.get("/", headers=headers) as reply:
            assert await reply.text() == "Ollama is running"
            assert reply.content_type == "text/plain"
