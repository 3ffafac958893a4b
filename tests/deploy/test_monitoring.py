"""Dashboard and alerts: every series in them exists, every expression parses, every alert fires when it should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.deploy.metrics import exposed, used
from vllama_balancer import errors

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "vllama.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
QUERIES = {
    **{
        f"panel {title} {target['refId']}": target["expr"]
        for title, panel in PANELS.items()
        for target in panel["targets"]
    },
    **{f"alert {name}": rule["expr"] for name, rule in ALERTS.items()},
}
AUTOSCALED = yaml.safe_load((DEPLOY / "kubernetes" / "autoscaling.yaml").read_text(encoding="utf-8"))


def test_series_exist() -> None:
    """A query names series of ours, and all of them are exposed."""
    ours = exposed()
    assert len(QUERIES) > 20
    for name, query in QUERIES.items():
        assert used(query), name
        assert used(query) - ours == set(), name


def test_queries_parse() -> None:
    """A query is PromQL once Grafana has put its own interval in."""
    refused = {}
    for name, query in QUERIES.items():
        try:
            promql_parser.parse(query.replace("$__rate_interval", "5m"))
        except ValueError as error:
            refused[name] = error
    assert refused == {}


def test_a_wrong_query_is_found() -> None:
    """The parser refuses what Prometheus would refuse."""
    with pytest.raises(ValueError, match=r"\w"):
        promql_parser.parse("sum(rate(vllama_requests_total[5m])")


def test_the_autoscaler_reads_a_metric_that_exists() -> None:
    """Its external metric is exposed under that very name."""
    (metric,) = AUTOSCALED["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] in exposed()


def test_outcomes_exist() -> None:
    """The failures that count as ours are reasons of the balancer's errors."""
    reasons = {one.reason for one in vars(errors).values() if isinstance(one, type) and hasattr(one, "reason")}
    named = {reason for query in QUERIES.values() for reason in re.findall(r"[A-Z_]{6,}", query)}
    assert named
    assert named <= reasons


def test_the_dashboard_is_whole() -> None:
    """Ids are unique, panels do not overlap, each has a description, and all query the chosen data source."""
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not places & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"] and panel["datasource"]["uid"] == "${datasource}" for panel in PANELS.values())


def test_every_alert_says_what_to_do() -> None:
    """Severity, a summary and a description."""
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def test_the_operators_rules_are_the_same() -> None:
    """The resource for the Prometheus operator repeats the rules, and nothing else."""
    monitoring = (DEPLOY / "kubernetes" / "monitoring.yaml").read_text(encoding="utf-8")
    resources: list[dict[str, Any]] = list(yaml.safe_load_all(monitoring))
    (rules,) = [one for one in resources if one["kind"] == "PrometheusRule"]
    assert rules["spec"] == RULES


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
@pytest.mark.parametrize("arguments", [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]])
def test_promtool_agrees(arguments: list[str]) -> None:
    """The rules are valid, and each alert fires in the scene that it is for and in no other."""
    done = subprocess.run(
        ["promtool", *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
