"""Recorded requests of the native API give the recorded requests on the wire, and the recorded replies.

A file in tests/golden/ollama is one exchange: `request` and `events` are written by hand, `wire`
and `reply` are recorded: run with VLLAMA_RECORD_GOLDEN=1, and read the difference before committing.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format

from vllama_balancer.errors import WorkerLost
from vllama_balancer.fake_gateway import FakeGateway, model, presets
from vllama_protos.v1 import generation_pb2, worker_pb2

if TYPE_CHECKING:
    from tests.edge.conftest import Serve

DIRECTORY = Path(__file__).parents[2] / "golden" / "ollama"
CASES = sorted(DIRECTORY.glob("*.json"))
RECORD = os.environ.get("VLLAMA_RECORD_GOLDEN") == "1"
NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
ABLE = [value for value in worker_pb2.Capability.values() if value not in (0, worker_pb2.CAPABILITY_EMBEDDING)]


def gateway_for(case: dict[str, Any]) -> FakeGateway:
    """Two models, and the events of the exchange; an event `{"error": …}` is a worker that dies."""
    sampling = generation_pb2.Sampling(temperature=0.6)
    able = model("able:7b", capabilities=ABLE, sampling=sampling, presets=presets("Be brief."))
    gateway = FakeGateway(able, model("embedder:latest", capabilities=[worker_pb2.CAPABILITY_EMBEDDING]))
    if "events" in case:
        gateway.play(*(_step(event) for event in case["events"]))
    return gateway


def _step(event: dict[str, Any]) -> generation_pb2.GenerateResponse | Exception:
    if "error" in event:
        return WorkerLost(event["error"])
    return json_format.ParseDict(event, generation_pb2.GenerateResponse())


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
async def test_an_exchange_is_as_recorded(path: Path, serve: Serve) -> None:
    """The translation both ways, through a real connection."""
    case = _read(path)
    gateway = gateway_for(case)
    request = case["request"]
    async with serve(gateway, now=lambda: NOW) as http:
        headers = {"X-Request-Id": "golden"}
        async with http.request(request["method"], request["path"], json=request.get("body"), headers=headers) as reply:
            text = await reply.text()
            lines = [json.loads(line) for line in text.splitlines()]
            recorded_reply = {"status": reply.status, "type": reply.headers["Content-Type"], "lines": lines}
    wires = [*gateway.requests, *gateway.embed_requests]
    recorded = {
        **case,
        "wire": [json_format.MessageToDict(wire, preserving_proto_field_name=True) for wire in wires],
        "reply": _without_measures(recorded_reply),
    }
    if RECORD:
        _write(path, recorded)
        pytest.fail(f"recorded {path.name}: look at it, then run without VLLAMA_RECORD_GOLDEN")
    assert recorded == case


def _read(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(path.read_text())
    return case


def _write(path: Path, case: dict[str, Any]) -> None:
    path.write_text(json.dumps(case, indent=2) + "\n")


def _without_measures(reply: dict[str, Any]) -> dict[str, Any]:
    """Embeddings have no timings of a worker's, so their total is measured here and differs every time."""
    for line in reply["lines"]:
        if "embeddings" in line and "total_duration" in line:
            line["total_duration"] = "measured"
    return reply


def test_there_are_cases() -> None:
    """An empty directory would pass everything."""
    assert len(CASES) >= 20
