"""Clients from npm: Ollama's own, the Vercel AI SDK with an Ollama provider, OpenAI's and Anthropic's."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from vllama_balancer.fake_gateway import delta, finished, started
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.scripted_edge import ScriptedEdge

pytestmark = pytest.mark.slow


def _run(folder: Path, script: str, *arguments: str) -> dict[str, Any]:
    command = ["node", script, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def test_the_official_client(node_modules: Path, base_url: str, model_name: str) -> None:
    """Lists, chats, streams, errors and aborts come out as the client promises."""
    got = _run(node_modules, "ollama.mjs", base_url, model_name)
    assert model_name in got["listed"]
    assert model_name in got["running"]
    assert "completion" in got["capabilities"]
    assert all(part.isdigit() for part in got["version"].split("."))
    assert got["streamed"] == got["whole"] != ""
    assert got["done"] == [False] * (len(got["done"]) - 1) + [True]
    assert got["generated"]
    assert got["unknown"] == {"name": "ResponseError", "message": "model 'nope' not found", "status": 404}
    assert got["abortError"] == "AbortError"


def test_the_vercel_ai_sdk(
    node_modules: Path, base_url: str, model_name: str, embedding_name: str, scripted: ScriptedEdge
) -> None:
    """Text, streams, tools, structured output, errors and vectors work through the Ollama provider."""
    call = generation_pb2.ToolCall(id="call_1", name="weather", arguments_json='{"city":"Kyiv"}')
    scripted.gateway.play(started(), delta(tool_calls=[call]), finished())
    scripted.gateway.play(started(), delta('{"name":"Kyiv"}'), finished())
    got = _run(node_modules, "ai_sdk.mjs", base_url, model_name, scripted.url, embedding_name)
    assert got["streamed"] == got["whole"] != ""
    assert got["completion"]
    assert (got["outputTokens"], got["finishReason"]) == (8, "length")
    assert got["calls"] == [["weather", {"city": "Kyiv"}]]
    assert got["structured"] == {"name": "Kyiv"}
    assert got["unknown"]["status"] == 404
    assert "not found" in got["unknown"]["body"]
    assert got["vectorLength"] > 0


def test_openais_and_anthropics_clients(node_modules: Path, base_url: str, model_name: str) -> None:
    """Chats, responses, messages, their streams and their errors parse."""
    got = _run(node_modules, "sdks.mjs", base_url, model_name)
    assert got["streamed"] == got["chat"] != ""
    assert got["response"][0] == "completed"
    assert got["response"][1]
    assert got["message"] == ["max_tokens", "text"]
    assert got["final"] == ["max_tokens", 8]
    assert [status for status, _ in got["errors"]] == [404, 404]
    assert all("model 'nope' not found" in message for _, message in got["errors"])
