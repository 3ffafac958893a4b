"""The Prometheus endpoint."""

import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from vllama_server import metrics
from vllama_server.errors import ConfigError, StartFailed


def test_the_registry_is_served_while_the_block_lasts():
    """Afterwards the port is free again."""
    registry = CollectorRegistry()
    Counter("vllama_test_things", "Things.", registry=registry).inc(3)
    with metrics.metrics_server("127.0.0.1:0", registry) as port:
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
        with page:
            assert b"vllama_test_things_total 3.0" in page.read()
    socket.create_server(("127.0.0.1", port)).close()


def test_nothing_is_served_unless_asked_for():
    """Without an address there is no endpoint."""
    with metrics.metrics_server(None, CollectorRegistry()) as port:
        assert port is None


def test_a_port_in_use_may_be_tried_again():
    """The flag is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartFailed, match="--metrics"), metrics.metrics_server(address, CollectorRegistry()):
            pass


def test_an_address_elsewhere_is_a_wrong_flag():
    """It can never be listened on."""
    with pytest.raises(ConfigError, match="--metrics"), metrics.metrics_server("192.0.2.1:9", CollectorRegistry()):
        pass
