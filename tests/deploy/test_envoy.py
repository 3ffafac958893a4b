"""The example for Envoy: it calls the port of the workers, and checks a service that they have."""

from __future__ import annotations

from pathlib import Path

import yaml

from vllama_protos.v1 import generation_pb2

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CONFIGURATION = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text(encoding="utf-8"))
(CLUSTER,) = CONFIGURATION["static_resources"]["clusters"]


def test_it_calls_the_workers() -> None:
    """The address is the headless service of the manifests."""
    (endpoint,) = CLUSTER["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    manifest = (DEPLOY / "kubernetes" / "balancer.yaml").read_text(encoding="utf-8")
    assert f"dns:///{address['address']}:{address['port_value']}" in manifest


def test_it_checks_a_service_that_exists() -> None:
    """The health check names the service that calls go to."""
    (check,) = CLUSTER["health_checks"]
    assert (
        check["grpc_health_check"]["service_name"] == generation_pb2.DESCRIPTOR.services_by_name["Generation"].full_name
    )
