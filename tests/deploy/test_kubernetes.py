"""The manifests: valid by Kubernetes' own schemas, and true to the processes that they start."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.flags import flags_of, unknown_flags

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
KUBERNETES_VERSIONS = ("1.31", "1.37")
"""The oldest in which a preStop hook may sleep is 1.30; these are what the schemas at hand span."""
OPERATOR_GROUP = "monitoring.coreos.com/"
"""Kinds of the Prometheus operator, which Kubernetes' schemas do not have."""


def documents(file: str) -> list[dict[str, Any]]:
    """Reads the resources of one file."""
    return list(yaml.safe_load_all((FOLDER / file).read_text(encoding="utf-8")))


FILES = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
RESOURCES = {f"{one['kind']}/{one['metadata']['name']}": one for file in FILES for one in documents(file)}
PODS = {"serve": RESOURCES["Deployment/vllama-balancer"], "worker": RESOURCES["StatefulSet/vllama-worker"]}
"""The resource that makes the pods of each command."""
OWN = {name: one for name, one in RESOURCES.items() if not one["apiVersion"].startswith(OPERATOR_GROUP)}


def container(command: str) -> dict[str, Any]:
    """The one container of a command's pods."""
    (only,) = PODS[command]["spec"]["template"]["spec"]["containers"]
    return dict(only)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", OWN)
def test_resources_fit_the_schemas(name: str, version: str) -> None:
    """Every resource is valid, unknown fields included."""
    kubernetes_validate.validate(OWN[name], version, strict=True)


def test_the_validation_can_fail() -> None:
    """A misspelt field is found: the schemas are there and strict."""
    broken = {**OWN["PodDisruptionBudget/vllama-worker"], "spec": {"maxUnavailible": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES_VERSIONS[-1], strict=True)


def test_the_kustomization_names_every_file() -> None:
    """Nothing lies there that `kubectl apply -k` leaves out."""
    (kustomization,) = documents("kustomization.yaml")
    assert sorted(kustomization["resources"]) == FILES


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_builds_it() -> None:
    """`kubectl kustomize` makes every resource, in the namespace and with tagged images."""
    done = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, timeout=60, check=False)
    if "unknown command" in done.stderr:
        pytest.skip("this kubectl has no kustomize")
    assert done.returncode == 0, done.stderr
    built = [one for one in yaml.safe_load_all(done.stdout) if one]
    assert len(built) == len(RESOURCES)
    assert {one["metadata"].get("namespace") for one in built if one["kind"] != "Namespace"} == {"vllama"}
    assert "image: vllama-worker:" in done.stdout


@pytest.mark.parametrize("command", PODS)
def test_flags_exist(command: str) -> None:
    """Each argument of a container is a flag that its process takes."""
    assert unknown_flags(command, container(command)["args"]) == []


@pytest.mark.parametrize("command", PODS)
def test_twins_of_flags_are_not_set_by_kubernetes(command: str) -> None:
    """A service called "vllama" would set VLLAMA_PORT=tcp://… in every pod, which is the twin of --port."""
    assert PODS[command]["spec"]["template"]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("command", PODS)
def test_environment_variables_are_twins_of_flags(command: str) -> None:
    """What begins with VLLAMA_ is read by the process; the model store is the CLI's own for workers."""
    names = {one["name"] for one in container(command)["env"] if one["name"].startswith("VLLAMA_")}
    flags = flags_of("vllama_balancer") | flags_of("vllama_server")
    assert {f"--{name.removeprefix('VLLAMA_').lower().replace('_', '-')}" for name in names} <= flags


@pytest.mark.parametrize("command", PODS)
def test_pods_have_time_to_drain(command: str) -> None:
    """The grace period covers the preStop hook and the drain after it."""
    drain = next(word for word in container(command)["args"] if word.startswith("--drain-timeout="))
    seconds = int(drain.partition("=")[2].removesuffix("s"))
    hook = container(command)["lifecycle"]["preStop"]
    if "sleep" in hook:
        seconds += hook["sleep"]["seconds"]
    else:
        timeout = next(word for word in hook["exec"]["command"] if word.startswith("--timeout="))
        seconds += int(timeout.partition("=")[2])
    assert seconds < PODS[command]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("command", PODS)
def test_probes_ask_ports_that_are_open(command: str) -> None:
    """Probes name ports of the container, and readiness is grpc.health.v1."""
    ports = {port["name"]: port["containerPort"] for port in container(command)["ports"]}
    known = {*ports, *ports.values()}
    probes = [container(command)[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    asked = [
        next(probe[kind]["port"] for kind in ("grpc", "httpGet", "tcpSocket") if kind in probe) for probe in probes
    ]
    assert set(asked) <= known
    assert "grpc" in probes[1]


def test_selectors_find_their_pods() -> None:
    """Services, budgets and the network policy select the pods of the workload that they are named after."""
    labels = {name: pod["spec"]["template"]["metadata"]["labels"] for name, pod in PODS.items()}
    assert RESOURCES["Service/vllama"]["spec"]["selector"] == labels["serve"]
    assert RESOURCES["Service/vllama-worker"]["spec"]["selector"] == labels["worker"]
    assert RESOURCES["PodDisruptionBudget/vllama-balancer"]["spec"]["selector"]["matchLabels"] == labels["serve"]
    assert RESOURCES["PodDisruptionBudget/vllama-worker"]["spec"]["selector"]["matchLabels"] == labels["worker"]
    policy = RESOURCES["NetworkPolicy/vllama-worker"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels["worker"]
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == labels["serve"]


def test_the_network_allows_what_the_pods_do_and_no_more() -> None:
    """Everything is denied first; then balancers reach workers, and the hub is open to workers only."""
    everything = RESOURCES["NetworkPolicy/vllama-default"]["spec"]
    assert (everything["podSelector"], set(everything["policyTypes"])) == ({}, {"Ingress", "Egress"})
    assert "ingress" not in everything and "egress" not in everything
    names, workers = RESOURCES["NetworkPolicy/vllama-balancer"]["spec"]["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    grpc = next(port["port"] for port in RESOURCES["Service/vllama-worker"]["spec"]["ports"] if port["name"] == "grpc")
    assert workers["ports"] == [{"port": grpc}]
    selected = workers["to"][0]["podSelector"]["matchLabels"]
    assert selected == PODS["worker"]["spec"]["template"]["metadata"]["labels"]
    opened = [
        port["port"] for rule in RESOURCES["NetworkPolicy/vllama-worker"]["spec"]["egress"] for port in rule["ports"]
    ]
    assert opened == [53, 53, 443]


def test_the_doors_ask_for_a_key() -> None:
    """The key file is that of a secret which must exist; it is not optional."""
    (path,) = [word.partition("=")[2] for word in container("serve")["args"] if word.startswith("--api-key-file=")]
    mount = next(one for one in container("serve")["volumeMounts"] if one["name"] == "keys")
    assert path == f"{mount['mountPath']}/keys" and mount["readOnly"]
    volumes = {one["name"]: one for one in PODS["serve"]["spec"]["template"]["spec"]["volumes"]}
    assert volumes["keys"]["secret"]["secretName"] == "vllama-keys"
    assert "optional" not in volumes["keys"]["secret"]


@pytest.mark.parametrize("command", PODS)
def test_pods_write_to_volumes_only(command: str) -> None:
    """The root is read-only; what a process writes to is mounted."""
    assert container(command)["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"/tmp", "/models"} <= {one["mountPath"] for one in container(command)["volumeMounts"]}


def test_the_balancer_looks_for_the_workers_service() -> None:
    """The name and port in --worker are the headless service's."""
    service = RESOURCES["Service/vllama-worker"]
    port = next(port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc")
    assert service["spec"]["clusterIP"] == "None"
    assert f"--worker=dns:///{service['metadata']['name']}:{port}" in container("serve")["args"]


def test_the_autoscaler_scales_the_workers() -> None:
    """The target of the autoscaler is the StatefulSet."""
    target = RESOURCES["HorizontalPodAutoscaler/vllama-worker"]["spec"]["scaleTargetRef"]
    workers = PODS["worker"]
    assert (target["apiVersion"], target["kind"]) == (workers["apiVersion"], workers["kind"])
    assert target["name"] == workers["metadata"]["name"]


def test_services_have_the_ports_that_are_scraped() -> None:
    """Each endpoint of the ServiceMonitor is a port of exactly one service."""
    endpoints = RESOURCES["ServiceMonitor/vllama"]["spec"]["endpoints"]
    services = [one["spec"]["ports"] for name, one in RESOURCES.items() if name.startswith("Service/")]
    for endpoint in endpoints:
        assert sum(any(port["name"] == endpoint["port"] for port in ports) for ports in services) == 1
