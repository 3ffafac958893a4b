"""The house's walls: who may import whom, checked on the source text."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("protos", "server", "balancer", "clients", "benchmarks")
OURS = {f"vllama_{name}" for name in PACKAGES}


def imports_of(path: Path) -> set[str]:
    """Every module that a file names in an import statement, `if TYPE_CHECKING` included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module or "")
    return names


def sources(folder: str) -> list[Path]:
    """The hand-written modules of one package."""
    return [path for path in sorted((ROOT / folder / f"vllama_{folder}").rglob("*.py")) if "_pb2" not in path.name]


def violations(folder: str, forbidden: set[str], *, below: str = "", outside: str = "") -> list[str]:
    """Lists imports of `forbidden` packages among a folder's files, or among some of them."""
    found = []
    for path in sources(folder):
        place = path.relative_to(ROOT / folder / f"vllama_{folder}").as_posix()
        if (below and not place.startswith(below)) or (outside and place.startswith(outside)):
            continue
        found += [
            f"{place}: {name}"
            for name in imports_of(path)
            if any(name == one or name.startswith(one + ".") for one in forbidden)
        ]
    return found


@pytest.mark.parametrize("folder", PACKAGES)
def test_parts_import_only_the_protos_of_each_other(folder: str) -> None:
    """Server, balancer and clients share the protos only, which import nothing of ours; benchmarks import all four."""
    allowed = {"protos": set(), "benchmarks": OURS}.get(folder, {"vllama_protos"})
    assert violations(folder, OURS - allowed - {f"vllama_{folder}"}) == []


@pytest.mark.parametrize("folder", PACKAGES)
def test_the_folders_are_no_packages(folder: str) -> None:
    """Nobody imports through the folder names."""
    assert violations(folder, set(PACKAGES)) == []


def test_only_the_adapter_imports_vllm() -> None:
    """The engine can be exchanged, and everything else runs without it."""
    assert violations("server", {"vllm", "torch", "transformers"}, outside="vllm_adapter/") == []
    assert violations("balancer", {"vllm"}) == []
    assert violations("balancer", {"torch", "transformers"}, outside="models/gguf") == []
    assert violations("clients", {"vllm", "torch", "transformers"}) == []


def test_only_the_edge_imports_aiohttp() -> None:
    """HTTP stays in the edge; the rest of the balancer speaks the wire's messages."""
    assert violations("balancer", {"aiohttp"}, outside="edge/") == []
    assert violations("server", {"aiohttp"}) == []


def test_only_its_driver_and_actors_import_ray() -> None:
    """Ray is an option, and a process that imports it can be ended by it: the balancer itself never does."""
    found = {row.partition(":")[0] for row in violations("balancer", {"ray"})}
    assert found == {"fleet/on_ray/actor.py", "fleet/on_ray/driver.py"}
    assert violations("server", {"ray"}, outside="vllm_adapter/") == []
    assert violations("clients", {"ray"}) == []


def test_only_the_wiring_knows_the_edge() -> None:
    """Calls go down from the front doors: nothing below imports them."""
    edge = {"vllama_balancer.edge"}
    assert [
        row for row in violations("balancer", edge, outside="edge/") if not row.startswith("startup/front_doors.py")
    ] == []


def test_policies_know_only_the_snapshot() -> None:
    """A policy is a function of what it is given: it never reaches for the pool or a worker."""
    beyond = {f"vllama_balancer.{name}" for name in ("workers", "dispatch", "front", "fleet", "startup", "edge")}
    assert violations("balancer", beyond | {"grpc", "asyncio"}, below="policies/") == []


@pytest.mark.parametrize("module", ["vllama_balancer.main", "vllama_clients.cli.main", "vllama_server.main"])
def test_imports_without_vllm_and_torch(module: str) -> None:
    """The processes start without loading vLLM, torch or Ray; a worker loads them when it builds its engine."""
    heavy = "', '.join(name for name in ('vllm', 'torch', 'transformers', 'ray') if name in sys.modules)"
    code = f"import sys, {module}; sys.exit({heavy} or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
