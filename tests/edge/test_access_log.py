"""The access log has client, worker and times of a request, and never its text."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from vllama_balancer.fake_gateway import FakeGateway, delta, finished, started
from vllama_balancer.logs import JsonFormatter

if TYPE_CHECKING:
    import aiohttp
    import pytest

    from tests.edge.conftest import Serve

SECRET = "a prompt that must stay secret"
BODY = {"model": "smollm2", "messages": [{"role": "user", "content": SECRET}]}
LOGGER = "vllama_balancer.edge.access_log"


async def test_a_line_has_the_facts_and_no_text(
    http: aiohttp.ClientSession, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Request id, model, worker, tokens, TTFT and status; neither prompt nor answer."""
    gateway.play(started(), delta("the answer"), finished())
    body = {**BODY, "model": "SmolLM2:135m"}
    with caplog.at_level(logging.DEBUG):
        async with http.post("/api/chat", json=body, headers={"X-Request-Id": "r-1"}) as reply:
            await reply.read()
            assert reply.headers["X-Vllama-Worker"] == "worker-0"
            assert reply.headers["X-Vllama-Reason"] == "only-candidate"
    (line,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert re.fullmatch(r"POST /api/chat 200 \d+/\d+ ms 3\+2 tokens smollm2:135m worker-0 127\.0\.0\.1 r-1", line)
    everything = " ".join(record.getMessage() for record in caplog.records)
    assert SECRET not in everything
    assert "the answer" not in everything


async def test_a_refusal_is_logged(http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    """Requests that fail early have a line too."""
    with caplog.at_level(logging.INFO, LOGGER):
        async with http.post("/api/chat", json=BODY) as reply:
            assert reply.status == 404
    assert re.fullmatch(r"POST /api/chat 404 \d+ ms 127\.0\.0\.1 [0-9a-f]{8}", caplog.records[-1].getMessage())


async def test_a_client_that_left_is_499(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """That status is in the log and the metrics only."""
    gateway, registry = FakeGateway(), CollectorRegistry()
    gateway.play(started(), delta("a"), asyncio.Event())
    with caplog.at_level(logging.INFO, LOGGER):
        async with serve(gateway, registry=registry) as http:
            reply = await http.post("/api/chat", json={**BODY, "model": "smollm2:135m"})
            await reply.content.readline()
            reply.close()
            async with asyncio.timeout(5):
                await gateway.all_closed.wait()
    assert " 499 " in caplog.records[-1].getMessage()
    labels = {"path": "/api/chat", "status": "499"}
    assert registry.get_sample_value("vllama_http_requests_total", labels) == 1
    assert registry.get_sample_value("vllama_http_requests_in_flight") == 0


async def test_a_bug_is_logged_without_the_request(
    http: aiohttp.ClientSession, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns nothing of the inside; the log gets the traceback and the request's id."""
    gateway.play(RuntimeError("a bug"))
    body = {**BODY, "model": "smollm2:135m"}
    async with http.post("/api/chat", json=body, headers={"X-Request-Id": "r-2"}) as reply:
        assert reply.status == 500
        assert await reply.json() == {"error": "internal error"}
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "unhandled exception in request r-2"
    assert SECRET not in caplog.text


async def test_a_path_cannot_forge_a_line(http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    """Line breaks in a path stay encoded."""
    with caplog.at_level(logging.INFO, LOGGER):
        async with http.get("/x%0aPOST%20/forged") as reply:
            assert reply.status == 404
    message = caplog.records[-1].getMessage()
    assert "%0APOST" in message.upper()
    assert "\n" not in message


async def test_facts_are_fields_of_a_json_log(http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    """All of them, whole: the line for people leaves some out."""
    with caplog.at_level(logging.INFO, LOGGER):
        async with http.get("/api/tags", headers={"X-Request-Id": "r-3"}) as reply:
            await reply.read()
    entry = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert (entry["request_id"], entry["status"], entry["path"], entry["model"]) == ("r-3", 200, "/api/tags", "")
    assert entry["completion_tokens"] == entry["migrations"] == 0 and entry["duration_ms"] > 0


async def test_a_line_fits_a_terminal(
    http: aiohttp.ClientSession, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """With the time and the level before it, a usual line has at most 120 columns."""
    gateway.play(started(), delta("the answer"), finished(prompt_tokens=12345, completion_tokens=4096))
    with caplog.at_level(logging.INFO, LOGGER):
        async with http.post("/v1/chat/completions", json={**BODY, "model": "smollm2:135m"}) as reply:
            await reply.read()
    assert len("2026-11-30 02:59:34 INFO " + caplog.records[-1].getMessage()) <= 120
