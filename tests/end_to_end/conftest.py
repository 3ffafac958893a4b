"""The whole product as processes: once per session on real vLLM, and on the simulated engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.fleet_process import FleetProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "smollm2:135m"
MAX_TOKENS = 24
CHATS = [
    [{"role": "user", "content": "Name three colours of the rainbow."}],
    [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "Why is the sky blue?"},
    ],
    [{"role": "user", "content": "Écris « bonjour » en japonais : 日本語で。"}],
]


@pytest.fixture(scope="session")
def model_directory() -> str:
    """Where the embedded model's weights lie."""
    done = subprocess.run(
        [sys.executable, "-m", "vllama_balancer.models", "resolve", MODEL],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="session")
def bare_answers(model_directory: str) -> list[dict[str, object]]:
    """What vLLM answers to CHATS without vllama; its own process, gone before the fleet starts."""
    # vLLM leaves its sockets behind; the directory's path is short enough for them.
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as directory:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("bare_engine.py"), model_directory, str(MAX_TOKENS)],
            input=json.dumps(CHATS),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env=os.environ | {"VLLM_PLUGINS": "", "TMPDIR": directory, "VLLM_RPC_BASE_PATH": directory},
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="session")
def real_fleet(
    bare_answers: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FleetProcess]:
    """Two real vLLM workers with the embedded model, deterministic."""
    log = tmp_path_factory.mktemp("real") / "fleet.log"
    fleet = FleetProcess([MODEL, "--workers", "2", "--deterministic", "--max-model-len", "2048"], log)
    fleet.start()
    try:
        fleet.wait_ready(2, 240)
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture
def fake_fleet(tmp_path: Path) -> Iterator[FleetProcess]:
    """Two simulated workers."""
    fleet = FleetProcess(["demo:1b", "--workers", "2", "--engine", "fake"], tmp_path / "fleet.log")
    fleet.start()
    try:
        fleet.wait_ready(2, 60)
        yield fleet
    finally:
        fleet.stop()
