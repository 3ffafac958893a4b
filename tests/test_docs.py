"""The documents list every flag and every metric and no others; their links and commands exist."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from vllama_balancer.edge.metrics import EdgeMetrics
from vllama_balancer.edge.operations import register_health_metric
from vllama_balancer.metrics import Metrics, register_process_metrics
from vllama_balancer.workers.metrics import PoolCollector
from vllama_balancer.workers.pool import Pool
from vllama_server.metrics import WorkerMetrics

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "tests" / "README.md"]
PAGES = [page for page in PAGES if page.exists()]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
METRICS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
MODULES = ["vllama_balancer", "vllama_server"]


@cache
def flags_of(module: str) -> frozenset[str]:
    """Returns the flags that `--help-all` of a process lists."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help-all"], capture_output=True, text=True, timeout=60, check=True
    )
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z-]+", done.stdout)) - {"--help", "--help-all"}


@pytest.mark.parametrize("module", MODULES)
def test_every_flag_is_documented(module: str) -> None:
    """Each flag of a process has a row in docs/configuration.md."""
    flags = flags_of(module)
    assert len(flags) > 10
    assert sorted(flag for flag in flags if not re.search(rf"^\| `{flag}`", CONFIGURATION, re.MULTILINE)) == []


def test_every_documented_flag_exists() -> None:
    """docs/configuration.md lists no flag that is gone."""
    documented = set(re.findall(r"^\| `(--[a-z-]+)`", CONFIGURATION, re.MULTILINE))
    assert sorted(documented - flags_of(MODULES[0]) - flags_of(MODULES[1])) == []


def metrics_of_the_balancer() -> CollectorRegistry:
    """Returns a registry with the metrics of the balancer."""
    registry = CollectorRegistry()
    Metrics(registry)
    EdgeMetrics(registry)
    registry.register(PoolCollector(Pool(), lambda: 0))
    register_process_metrics(registry)
    register_health_metric(registry, lambda: True)
    return registry


def metrics_of_a_worker() -> CollectorRegistry:
    """Returns a registry with the metrics of a worker."""
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    return registry


@pytest.mark.parametrize("registry", [metrics_of_the_balancer(), metrics_of_a_worker()], ids=["balancer", "worker"])
def test_every_metric_is_documented(registry: CollectorRegistry) -> None:
    """Each metric of a process is in docs/metrics.md with its help text."""
    families = [family for family in registry.collect() if not family.name.startswith("process_")]
    assert len(families) > 10
    lines = {f"| `{family.name}` | {family.documentation} |" for family in families}
    missing = (line for line in lines if line not in METRICS and line.replace("` |", "_total` |") not in METRICS)
    assert sorted(missing) == []


def test_every_documented_metric_exists() -> None:
    """docs/metrics.md lists no metric that is gone."""
    names = {family.name for made in (metrics_of_the_balancer(), metrics_of_a_worker()) for family in made.collect()}
    documented = {name.removesuffix("_total") for name in re.findall(r"^\| `(vllama_\w+)` \|", METRICS, re.MULTILINE)}
    assert sorted(documented - names) == []


def test_every_make_target_exists() -> None:
    """Each `make` target of the documents is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {
        name for page in PAGES for code in _code(page) for name in re.findall(r"^make ([\w-]+)", code, re.MULTILINE)
    }
    assert "test" in named
    assert sorted(name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_exists(page: Path) -> None:
    """A link to a file, and to a heading of a page, leads somewhere."""
    links = re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not _exists(page, link)] == []


def _exists(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_exists(page: Path) -> None:
    """Each `vllama COMMAND` and `python -m vllama_….MODULE` of a page exists."""
    code = "\n".join(_code(page))
    modules = set(re.findall(r"python3? -m (vllama_[\w.]+\w)", code))
    assert sorted(name for name in modules if not _is_module(name)) == []
    commands = set(re.findall(r"^(?:\.venv/bin/)?vllama ([a-z]+)\b", code, re.MULTILINE))
    assert sorted(commands - _commands()) == []


def _code(page: Path) -> list[str]:
    """Returns the fenced blocks and the inline code of a page."""
    text = page.read_text(encoding="utf-8")
    fenced = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [*fenced.findall(text), *re.findall(r"`([^`\n]+)`", fenced.sub("", text))]


def _is_module(name: str) -> bool:
    relative = Path(*name.split("."))
    candidates = (ROOT / top / relative for top in ("balancer", "server", "clients", "benchmarks", "protos"))
    return any(path.with_suffix(".py").exists() or (path / "__main__.py").exists() for path in candidates)


@cache
def _commands() -> frozenset[str]:
    done = subprocess.run(
        [sys.executable, "-m", "vllama_clients.cli", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    return frozenset(re.findall(r"^│ ([a-z]+) ", done.stdout, re.MULTILINE))
