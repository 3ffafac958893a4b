"""The README lists every flag and every metric, and no others."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from vllama_balancer.edge.metrics import EdgeMetrics
from vllama_balancer.edge.operations import register_health_metric
from vllama_balancer.metrics import Metrics, register_process_metrics
from vllama_balancer.workers.metrics import PoolCollector
from vllama_balancer.workers.pool import Pool
from vllama_server.metrics import WorkerMetrics

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["vllama_balancer", "vllama_server"])
def test_every_flag_is_documented(module: str) -> None:
    """Each flag of a process is in the README."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help-all"], capture_output=True, text=True, timeout=60, check=True
    )
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", done.stdout)) - {"--help"}
    assert len(flags) > 10
    assert sorted(flag for flag in flags if not re.search(rf"`{flag}\b(?!-)", README)) == []


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
    """Each metric of a process is in the README with its help text."""
    families = [family for family in registry.collect() if not family.name.startswith("process_")]
    assert len(families) > 10
    lines = {f"| `{family.name}` | {family.documentation} |" for family in families}
    assert sorted(line for line in lines if line not in README and line.replace("` |", "_total` |") not in README) == []


def test_every_documented_metric_exists() -> None:
    """The README lists no metric that is gone."""
    names = {family.name for made in (metrics_of_the_balancer(), metrics_of_a_worker()) for family in made.collect()}
    documented = {name.removesuffix("_total") for name in re.findall(r"^\| `(vllama_\w+)` \|", README, re.MULTILINE)}
    assert sorted(documented - names) == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`make (\w+)`", README))))
def test_every_make_target_exists(name: str) -> None:
    """Each `make` target of the README is in the Makefile."""
    makefile = (Path(__file__).resolve().parent.parent / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{name}:", makefile, flags=re.MULTILINE)
