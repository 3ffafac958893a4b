"""Which modules may import which, checked on the source text."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("protos", "server", "balancer", "clients", "benchmarks")
OURS = {f"vllama_{name}" for name in PACKAGES}


def imports_of(path: Path) -> set[str]:
    """The modules that a file names in import statements, `if TYPE_CHECKING` included."""
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
    """No import goes through the folder names."""
    assert violations(folder, set(PACKAGES)) == []


def test_only_the_adapter_imports_vllm() -> None:
    """The engine can be exchanged, and everything else runs without it."""
    assert violations("server", {"vllm", "torch", "transformers"}, outside="vllm_adapter/") == []
    assert violations("balancer", {"vllm"}) == []
    assert violations("balancer", {"torch", "transformers"}, outside="models/gguf") == []
    assert violations("clients", {"vllm", "torch", "transformers"}) == []
    assert violations("benchmarks", {"vllm", "torch", "transformers"}, outside="bare_engine.py") == []


def test_only_the_edge_imports_aiohttp() -> None:
    """HTTP stays in the edge; the rest of the balancer speaks the wire's messages."""
    assert violations("balancer", {"aiohttp"}, outside="edge/") == []
    assert violations("server", {"aiohttp"}) == []
    assert violations("clients", {"aiohttp"}) == []


def test_only_its_driver_and_actors_import_ray() -> None:
    """Ray is an option, and a process that imports it can be ended by it: the balancer itself never does."""
    found = {row.partition(":")[0] for row in violations("balancer", {"ray"})}
    assert found == {"fleet/on_ray/actor.py", "fleet/on_ray/driver.py"}
    assert violations("server", {"ray"}, outside="vllm_adapter/") == []
    assert violations("clients", {"ray"}) == []


def test_only_the_front_doors_import_the_edge() -> None:
    """The process can be put together with another HTTP server."""
    edge = {"vllama_balancer.edge"}
    assert [
        row for row in violations("balancer", edge, outside="edge/") if not row.startswith("startup/front_doors.py")
    ] == []


def test_policies_need_only_the_snapshot() -> None:
    """A policy is a function of its arguments: it never reaches the pool or a worker."""
    found = violations("balancer", {"vllama_balancer", "grpc", "asyncio"}, below="routing/")
    allowed = ("vllama_balancer.routing.", "vllama_balancer.errors")
    assert [row for row in found if not row.partition(": ")[2].startswith(allowed)] == []
    assert [path for path in sources("balancer") if "routing" in path.parts] != []


@pytest.mark.parametrize("module", ["vllama_balancer.main", "vllama_clients.cli.main", "vllama_server.main"])
def test_imports_without_vllm_and_torch(module: str) -> None:
    """The processes start without loading vLLM, torch or Ray; a worker loads them when it builds its engine."""
    heavy = "', '.join(name for name in ('vllm', 'torch', 'transformers', 'ray') if name in sys.modules)"
    code = f"import sys, {module}; sys.exit({heavy} or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


LAYERS = (
    {"main", "__main__", "app", "startup"},
    {"edge", "front"},
    {"dispatch"},
    {"scheduler"},
    {"workers"},
    {"models"},
    {"fleet"},
    {"routing"},
    {"callers", "certificates", "change_counter", "client_limits", "config", "errors", "fake_gateway", "gateway",
     "keys", "logs", "metrics", "names", "preset_options", "signals"},
)  # fmt: skip
"""The balancer's packages and modules from the top to the leaves: imports go down or stay."""
SIDE_BY_SIDE = {"dispatch", "scheduler"}
"""Two layers of one height: neither imports the other."""


def graph_of(folder: str) -> dict[str, set[str]]:
    """The modules of one package, each with those of the same package that it imports, without the package's name."""
    files = {}
    for path in sources(folder):
        parts = path.relative_to(ROOT / folder / f"vllama_{folder}").with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    prefix = f"vllama_{folder}."
    return {
        module: {name.removeprefix(prefix) for name in named_by(path, {prefix + other for other in files})} - {module}
        for module, path in files.items()
    }


def named_by(path: Path, modules: set[str]) -> set[str]:
    """Those of the modules that a file imports: `from package import x` means the module x if there is one."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            wholes = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {whole if whole in modules else node.module or "" for whole in wholes}
    return names & modules


def layer_of(module: str) -> int:
    """The number of a module's layer, 0 at the top."""
    top = module.partition(".")[0]
    found = [number for number, layer in enumerate(LAYERS) if top in layer]
    assert found, f"{module} is in no layer: add {top} to LAYERS"
    return found[0]


def wrong_directions(graph: dict[str, set[str]]) -> list[str]:
    """The imports of a graph that go up, or sideways between two layers of one height."""
    found = []
    for module, imported in graph.items():
        for other in imported:
            ends = {module.partition(".")[0], other.partition(".")[0]}
            if module and other and (layer_of(other) < layer_of(module) or ends == SIDE_BY_SIDE):
                found.append(f"{module} imports {other}")
    return sorted(found)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other in a circle."""
    beyond = {module: reachable(graph, module) for module in graph}
    groups = {frozenset(other for other in beyond[module] if module in beyond[other]) for module in graph}
    return sorted(sorted(group) for group in groups if group)


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """The modules that a module imports, directly or through others; itself only in a circle."""
    found: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        if (module := ahead.pop()) not in found:
            found.add(module)
            ahead += graph[module]
    return found


def test_imports_of_the_balancer_go_down() -> None:
    """Each layer imports layers below it, for annotations too; the dispatcher and the scheduler are independent."""
    assert wrong_directions(graph_of("balancer")) == []


@pytest.mark.parametrize("folder", PACKAGES)
def test_no_files_import_each_other_in_a_circle(folder: str) -> None:
    """A file can be read with what it imports, and no import has to be hidden in a function."""
    assert circles(graph_of(folder)) == []


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("routing.policy", "workers.worker"),
        ("dispatch.replay", "scheduler.model"),
        ("scheduler.model", "dispatch.replay"),
    ],
    ids=["up", "sideways", "sideways back"],
)
def test_a_wrong_direction_is_found(module: str, other: str) -> None:
    """The check sees one wrong import among right ones."""
    right = {"main": {"edge.app"}, "edge.app": {"gateway"}, "gateway": set()}
    assert wrong_directions(right) == []
    assert wrong_directions({**right, module: {other, "gateway"}, other: set()}) == [f"{module} imports {other}"]


def test_a_circle_is_found() -> None:
    """Through any number of files, and without those that merely lead to it."""
    chain = {"a": {"b"}, "b": {"c"}, "c": set()}
    assert circles(chain) == []
    assert circles({**chain, "c": {"b"}}) == [["b", "c"]]
    assert circles({**chain, "c": {"a"}}) == [["a", "b", "c"]]


def test_imports_for_annotations_count(tmp_path: Path) -> None:
    """A module is named by either form of import, at the top or under TYPE_CHECKING."""
    file = tmp_path / "x.py"
    file.write_text("import a.b\nif TYPE_CHECKING:\n    from c import d\n    from e.f import G\n")
    assert named_by(file, {"a", "a.b", "c", "c.d", "e.f"}) == {"a.b", "c.d", "e.f"}
