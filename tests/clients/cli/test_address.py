"""Where the commands look for the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllama_balancer.config import parse
from vllama_clients.cli.address import grpc_target, http_address
from vllama_clients.cli.failure import CommandFailed


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://127.0.0.1:11434"),
        ({"OLLAMA_HOST": "box"}, "http://box:11434"),
        ({"OLLAMA_HOST": "box:1234"}, "http://box:1234"),
        ({"OLLAMA_HOST": ":1234"}, "http://127.0.0.1:1234"),
        ({"OLLAMA_HOST": "0.0.0.0"}, "http://127.0.0.1:11434"),
        ({"OLLAMA_HOST": "[::]:1234"}, "http://[::1]:1234"),
        ({"OLLAMA_HOST": "::1"}, "http://[::1]:11434"),
        ({"OLLAMA_HOST": "http://box"}, "http://box:80"),
        ({"OLLAMA_HOST": "https://box"}, "https://box:443"),
        ({"OLLAMA_HOST": "https://box:8443/ollama/"}, "https://box:8443/ollama"),
        ({"OLLAMA_HOST": ' "box" '}, "http://box:11434"),
        ({"OLLAMA_HOST": "other", "VLLAMA_HOST": "box"}, "http://box:11434"),
        ({"VLLAMA_HOST": "box", "VLLAMA_PORT": "99"}, "http://box:99"),
        ({"VLLAMA_HOST": "box:1", "VLLAMA_PORT": "99"}, "http://box:1"),
        ({"OLLAMA_HOST": "box:1", "VLLAMA_PORT": "99"}, "http://box:99"),
        ({"VLLAMA_HOST": "http://box", "VLLAMA_PORT": "99"}, "http://box:80"),
    ],
)
def test_http_address(environment: dict[str, str], url: str) -> None:
    """The variables are read as the server reads them, and turned into something that can be called."""
    assert str(http_address(environment)) == url


@pytest.mark.parametrize(
    "host", ["", "box", "box:1", ":1", "[::1]:1", "::1", "http://box", "https://box:8443", ' "box" ']
)
@pytest.mark.parametrize("variable", ["VLLAMA_HOST", "OLLAMA_HOST"])
@pytest.mark.parametrize("port", ["", "99"])
def test_the_server_listens_where_the_commands_call(host: str, variable: str, port: str) -> None:
    """Server and command read the same address from one environment."""
    environment = {variable: host, "VLLAMA_PORT": port}
    listening, called = parse([], environment, home=Path("/home/me")), http_address(environment)
    assert (listening.host, listening.port) == (called.host, called.port)


@pytest.mark.parametrize(
    "environment",
    [
        {"VLLAMA_HOST": "ftp://box"},
        {"VLLAMA_HOST": "box:port"},
        {"VLLAMA_HOST": "box:99999"},
        {"VLLAMA_PORT": "x"},
        {"VLLAMA_PORT": "0"},
    ],
)
def test_nonsense_is_refused_by_name(environment: dict[str, str]) -> None:
    """The variable that is wrong is named."""
    with pytest.raises(CommandFailed, match=next(iter(environment))):
        http_address(environment)


@pytest.mark.parametrize(
    ("environment", "target"),
    [
        ({}, "127.0.0.1:50051"),
        ({"VLLAMA_HOST": "box:1234"}, "box:50051"),
        ({"VLLAMA_HOST": "::1", "VLLAMA_GRPC_PORT": "7"}, "[::1]:7"),
        ({"VLLAMA_GRPC": "unix:/run/vllama.sock"}, "unix:/run/vllama.sock"),
    ],
)
def test_grpc_target(environment: dict[str, str], target: str) -> None:
    """The gRPC front is on the edge's host unless it is named."""
    assert grpc_target(environment) == target
