"""The TypeScript client: builds from the protos as they are now, and passes its own tests against a fleet."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.fleet_process import FleetProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).resolve().parents[2] / "clients" / "typescript"
MODEL = "simulated"
START_SECONDS = 100
BUILD_SECONDS = 110
TEST_SECONDS = 110


def run(*command: str, seconds: float = BUILD_SECONDS, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in the client's folder."""
    return subprocess.run(
        command,
        cwd=FOLDER,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.fixture(scope="module")
def installed() -> None:
    """The locked packages; skips when they cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is not installed")
    done = FOLDER / "node_modules" / ".package-lock.json"
    if not done.exists() or done.stat().st_mtime < (FOLDER / "package-lock.json").stat().st_mtime:
        install = run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
        if install.returncode != 0:
            pytest.skip(f"the client's packages could not be installed: {install.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def built(installed: None) -> None:
    """The compiled client."""
    build = run("npm", "run", "build")
    assert build.returncode == 0, (build.stdout + build.stderr)[-3000:]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    """A balancer with two simulated workers."""
    process = FleetProcess([MODEL, "--engine", "fake", "--workers", "2"], tmp_path_factory.mktemp("fleet") / "log")
    process.start()
    try:
        process.wait_ready(2, START_SECONDS)
        yield process
    finally:
        process.stop()


def test_the_lock_names_no_registry() -> None:
    """The packages come from whatever registry npm is configured with, and are held by their hashes."""
    packages = json.loads((FOLDER / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []


@pytest.mark.timeout(300)
def test_the_client_under_node(built: None, fleet: FleetProcess) -> None:
    """Every test of the client passes, those against a fleet included."""
    environment = {"VLLAMA_TEST_TARGET": fleet.target, "VLLAMA_TEST_MODEL": MODEL}
    done = run("node", "--test", "--test-reporter=tap", "dist/test/", seconds=TEST_SECONDS, **environment)
    assert done.returncode == 0, done.stdout[-4000:]
    counts = dict(re.findall(r"^# (tests|pass|fail|skipped) (\d+)$", done.stdout, flags=re.MULTILINE))
    assert int(counts["pass"]) + int(counts["skipped"]) == int(counts["tests"]) > 40
    # Without openssl the certificates cannot be made; everything else must have run.
    assert int(counts["skipped"]) == 0 or shutil.which("openssl") is None
