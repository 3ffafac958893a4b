"""The edges that real clients are pointed at.

`served` is a whole fleet, and every test that uses it runs on each in turn: on simulated workers,
whose answers are quick, and on vLLM with the embedded model; or on nothing but what
VLLAMA_CONTRACT_URL names. `scripted` is an edge whose model says what a test wants, for what no
small model says reliably: calls, reasoning, failures.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.fleets import FLEETS, Served, given, real, simulated
from tests.contract.scripted_edge import ScriptedEdge
from vllama_balancer.fake_gateway import FakeGateway, model
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = Path(__file__).with_name("node")
TEXT = (worker_pb2.CAPABILITY_COMPLETION, worker_pb2.CAPABILITY_CHAT)


@pytest.fixture(scope="session", params=FLEETS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A fleet that answers, one of each kind for the whole session."""
    if request.param == "given":
        yield given()
        return
    start = {"simulated": simulated, "real": real}[request.param]
    with start(tmp_path_factory.mktemp(request.param)) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def base_url(served: Served) -> str:
    """The address of the fleet's edge."""
    return served.url


@pytest.fixture(scope="session")
def model_name(served: Served) -> str:
    """A model of the fleet that chats."""
    return served.model


@pytest.fixture(scope="session")
def embedding_name(served: Served) -> str:
    """A model of the fleet that embeds."""
    if not served.embedder:
        pytest.skip("VLLAMA_CONTRACT_EMBEDDING_MODEL names no embedding model")
    return served.embedder


@pytest.fixture
def scripted() -> Iterator[ScriptedEdge]:
    """An edge with "able" (tools, reasoning, eyes), "plain" (chats only) and "vectors" (embeds only)."""
    gateway = FakeGateway(
        model(
            "able:latest",
            capabilities=(
                *TEXT,
                worker_pb2.CAPABILITY_TOOLS,
                worker_pb2.CAPABILITY_THINKING,
                worker_pb2.CAPABILITY_VISION,
            ),
        ),
        model("plain:latest", capabilities=TEXT),
        model("vectors:latest", capabilities=[worker_pb2.CAPABILITY_EMBEDDING]),
    )
    with ScriptedEdge(gateway) as edge:
        yield edge


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder where the JavaScript clients are installed; skips when they cannot be."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is not installed")
    installed = NODE / "node_modules" / ".package-lock.json"
    lock = NODE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=110, check=False)
        if done.returncode != 0:
            pytest.skip(f"the JavaScript clients could not be installed: {done.stderr.strip()[-200:]}")
    return NODE
