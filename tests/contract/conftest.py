"""The edges that real clients are pointed at.

`base_url` is a whole fleet: two simulated workers behind a balancer, or whatever VLLAMA_CONTRACT_URL
names, with the model of VLLAMA_CONTRACT_MODEL and, if there is one, the embedding model of
VLLAMA_CONTRACT_EMBEDDING_MODEL. `scripted` is an edge whose model says what a test wants, for what
no small model says reliably: calls, reasoning, failures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_edge import ScriptedEdge
from tests.end_to_end.fleet_process import FleetProcess
from vllama_balancer.fake_gateway import FakeGateway, model
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = Path(__file__).with_name("node")
TEXT = (worker_pb2.CAPABILITY_COMPLETION, worker_pb2.CAPABILITY_CHAT)


@pytest.fixture(scope="session")
def model_name() -> str:
    """The model that the fleet serves; the simulated engine takes any name."""
    return os.environ.get("VLLAMA_CONTRACT_MODEL", "demo:1b")


@pytest.fixture(scope="session")
def base_url(model_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fleet."""
    if url := os.environ.get("VLLAMA_CONTRACT_URL"):
        yield url.rstrip("/")
        return
    folder = tmp_path_factory.mktemp("contract")
    arguments = [model_name, "--workers", "2", "--engine", "fake", "--models", str(folder / "models")]
    fleet = FleetProcess(arguments, folder / "fleet.log")
    fleet.start()
    try:
        fleet.wait_ready(2, 60)
        yield fleet.url
    finally:
        fleet.stop()


@pytest.fixture(scope="session")
def embedding_name(model_name: str) -> str:
    """A model of the fleet that embeds; the simulated one does both."""
    if name := os.environ.get("VLLAMA_CONTRACT_EMBEDDING_MODEL"):
        return name
    if "VLLAMA_CONTRACT_URL" in os.environ:
        pytest.skip("VLLAMA_CONTRACT_EMBEDDING_MODEL names no embedding model")
    return model_name


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
