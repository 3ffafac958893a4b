"""What operators and load balancers ask: health, metrics, the fleet, and the page that shows it."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from vllama_balancer.edge.encoding import encode_json
from vllama_balancer.edge.fleet_json import HealthJson, fleet_json, health_json
from vllama_balancer.edge.health_metrics import register_health_metric
from vllama_protos.v1 import fleet_pb2

if TYPE_CHECKING:
    from vllama_balancer.edge.edge import Edge
    from vllama_balancer.edge.metrics import EdgeMetrics
    from vllama_balancer.gateway import FleetView


class NoFleetView:
    """Stands in where nobody can see the fleet, as in front of a remote balancer."""

    def fleet(self) -> fleet_pb2.ListWorkersResponse:
        """Lists no worker."""
        return fleet_pb2.ListWorkersResponse()


class Page:
    """The one file that browsers get, and the headers that let nothing else run in it."""

    def __init__(self) -> None:
        self.body = resources.files("vllama_balancer.edge.page").joinpath("index.html").read_bytes()
        """HTML with its style and its script within."""
        script, style = _hash_within(self.body, b"script"), _hash_within(self.body, b"style")
        policy = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; base-uri 'none'"
        self.headers = {
            "Content-Security-Policy": f"{policy}; form-action 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Vary": "Accept",
        }
        """What goes with it."""


def _hash_within(page: bytes, tag: bytes) -> str:
    """Makes the hash by which a browser recognises the text of the page's one such element."""
    text = page.partition(b"<%b>" % tag)[2].partition(b"</%b>" % tag)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


class Operations:
    """Handlers beside the APIs."""

    def __init__(self, edge: Edge, fleet: FleetView, metrics: EdgeMetrics) -> None:
        self._edge = edge
        self._fleet = fleet
        self._metrics = metrics
        self._page = Page()
        register_health_metric(metrics.registry, lambda: self._health().can_serve)

    def routes(self) -> list[web.RouteDef]:
        """The paths."""
        return [
            web.get("/", self.root),
            web.get("/health", self.health),
            web.get("/health/live", self.live),
            web.get("/metrics", self.metrics),
            web.get("/fleet", self.fleet),
        ]

    async def root(self, request: web.Request) -> web.Response:
        """GET /: the page for a browser, Ollama's line for any other client."""
        if "text/html" in request.headers.get("Accept", ""):
            page = self._page
            return web.Response(body=page.body, content_type="text/html", charset="utf-8", headers=page.headers)
        return web.Response(text="Ollama is running", headers={"Vary": "Accept"})

    async def health(self, request: web.Request) -> web.Response:
        """GET /health: 200 while a model can answer or would be loaded, 503 while none can or the end is near."""
        health = self._health()
        status = 200 if health.can_serve else 503
        return web.Response(status=status, body=encode_json(health), content_type="application/json")

    async def live(self, request: web.Request) -> web.Response:
        """GET /health/live: 200 as long as the process answers at all."""
        return web.Response(body=encode_json({"status": "ok"}), content_type="application/json")

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics: Prometheus."""
        text = generate_latest(self._metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def fleet(self, request: web.Request) -> web.Response:
        """GET /fleet: what the page shows."""
        fleet = fleet_json(self._fleet.fleet(), self._edge.gateway.models(), self._metrics.recent_ttft_seconds)
        return web.Response(body=encode_json(fleet), content_type="application/json")

    def _health(self) -> HealthJson:
        return health_json(self._fleet.fleet(), self._edge.gateway.models(), draining=self._edge.draining)
