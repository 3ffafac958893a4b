"""Ports are bound early, and one that is taken is explained."""

from __future__ import annotations

import os
import socket

import pytest

from vllama_balancer.errors import ConfigError
from vllama_balancer.startup.front_doors import bind, owner_of


def test_a_free_port_is_taken() -> None:
    """Port 0 finds one; the socket listens."""
    with bind("127.0.0.1", 0, "--port") as listener, socket.create_connection(listener.getsockname()):
        pass


def test_a_taken_port_names_its_owner_and_the_flag() -> None:
    """The sentence names the process to stop and the flag to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as refusal:
            bind("127.0.0.1", port, "--grpc-port")
    text = str(refusal.value)
    assert f"port {port} is in use" in text and f"(process {os.getpid()})" in text and "--grpc-port" in text


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_a_foreign_address_is_refused(host: str) -> None:
    """An address that this machine does not have names --host."""
    with pytest.raises(ConfigError, match="--host"):
        bind(host, 0, "--port")


def test_a_free_port_has_no_owner() -> None:
    """An owner that cannot be seen is called another process."""
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    assert owner_of(port) == "another process"
