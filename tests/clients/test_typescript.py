"""The TypeScript client: builds from the protos as they are now, and passes its own tests against a fleet."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.fleet_process import FleetProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "clients" / "typescript"
MODEL = "simulated"
START_SECONDS = 100
BUILD_SECONDS = 110
TEST_SECONDS = 110


USE = """
const client = new Client(process.env.VLLAMA_TEST_TARGET ?? "");
const request: GenerateRequest = { model: "simulated", prompt: "Hi", sampling: { maxTokens: 3 } };
client.generate(request).collect().then((whole) => {
  const text: string = whole.text;
  console.log(text);
  client.close();
});
"""
"""A program of a user of the package, typed."""
PROGRAMS = {
    "mts": 'import { Client, type GenerateRequest } from "vllama-client";' + USE,
    "cts": 'import type { GenerateRequest } from "vllama-client";\nimport vllama = require("vllama-client");\n'
    "const { Client } = vllama;" + USE,
}
"""The program as an ES module and as CommonJS, by the ending of its source."""


def run(
    *command: str, folder: Path = FOLDER, seconds: float = BUILD_SECONDS, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command in the client's folder, or another."""
    return subprocess.run(
        command,
        cwd=folder,
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
def packed(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the package is installed as npm would, from the tarball that would be published."""
    folder = tmp_path_factory.mktemp("packed")
    pack = run("npm", "pack", "--pack-destination", str(folder))
    assert pack.returncode == 0, (pack.stdout + pack.stderr)[-3000:]
    (tarball,) = folder.glob("*.tgz")
    modules = folder / "node_modules"
    modules.mkdir()
    with tarfile.open(tarball) as archive:
        archive.extractall(modules, filter="data")
    (modules / "package").rename(modules / "vllama-client")
    for name in json.loads((FOLDER / "package.json").read_text(encoding="utf-8"))["dependencies"]:
        (modules / name).parent.mkdir(exist_ok=True)
        (modules / name).symlink_to(FOLDER / "node_modules" / name)
    (modules / "@types").symlink_to(FOLDER / "node_modules" / "@types")
    return folder


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


def test_the_package_can_be_published(packed: Path) -> None:
    """It is not private, names its license, and holds code, types and the license of both kinds of module."""
    package = packed / "node_modules" / "vllama-client"
    manifest = json.loads((package / "package.json").read_text(encoding="utf-8"))
    assert not manifest.get("private")
    for kind in manifest["exports"]["."].values():
        for file in kind.values():
            assert (package / file).is_file(), file
    assert (package / "LICENSE").read_text(encoding="utf-8").strip().startswith("Apache License")
    assert (package / "README.md").is_file()
    assert not list(package.rglob("*.test.*"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_package_serves_both_kinds_of_module(packed: Path, fleet: FleetProcess, kind: str) -> None:
    """A typed program that imports or requires it compiles, and gets an answer from a fleet."""
    (packed / f"program.{kind}").write_text(PROGRAMS[kind], encoding="utf-8")
    compiler = str(FOLDER / "node_modules" / "typescript" / "bin" / "tsc")
    flags = (
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--strict",
        "--types",
        "node",
        "--lib",
        "es2022,esnext.disposable",
    )
    compiled = run("node", compiler, *flags, f"program.{kind}", folder=packed)
    assert compiled.returncode == 0, compiled.stdout[-3000:]
    program = f"program.{kind.replace('ts', 'js')}"
    done = run("node", program, folder=packed, seconds=TEST_SECONDS, VLLAMA_TEST_TARGET=fleet.target)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.fullmatch(r" ([0-9a-f]{4})\.0 \1\.1 \1\.2\n", done.stdout)
