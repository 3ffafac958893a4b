"""Ports are bound early, and one that is taken is explained."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from vllama_balancer import config
from vllama_balancer.errors import ConfigError
from vllama_balancer.keys import ALL_SCOPES, Scope
from vllama_balancer.startup.front_doors import bind, make_access, owner_of


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


def parsed(*flags: str) -> config.BalancerConfig:
    return config.parse(flags, {}, home=Path("/home/ali"))


@pytest.mark.parametrize(
    ("flags", "warning"),
    [
        ([], ""),
        (["--host", "::1"], ""),
        (["--host", "0.0.0.0"], "anyone who reaches 0.0.0.0 may infer, metrics without a key: set --api-key-file"),
        (["--host", "0.0.0.0", "--anonymous-scopes", "infer,models"], "may infer, models without a key"),
        (["--host", "0.0.0.0", "--anonymous-scopes", "none"], ""),
        (["--host", "0.0.0.0", "--api-key-file", "KEYS"], ""),
    ],
)
def test_an_open_server_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, flags: list[str], warning: str
) -> None:
    """In one line, with the way to close it."""
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{hashlib.sha256(b'secret').hexdigest()} scope=infer\n")
    make_access(parsed(*(str(keys) if flag == "KEYS" else flag for flag in flags)))
    assert len(caplog.messages) == bool(warning) and warning in caplog.text


def test_the_rights_are_those_of_the_configuration() -> None:
    """Trusted proxies, anonymous scopes and the names of this machine."""
    access = make_access(parsed("--trusted-proxy", "127.0.0.1", "--anonymous-scopes", "models"))

    def scopes(**headers: str) -> frozenset[Scope]:
        return access.caller("127.0.0.1", lambda name: [headers[name]] if name in headers else []).scopes

    assert scopes() == scopes(host="localhost:11434") == ALL_SCOPES
    assert scopes(**{"x-forwarded-for": "192.0.2.1"}) == scopes(host="evil.com") == {Scope.MODELS}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--anonymous-scopes", "all"], "none, or a list of infer, models, fleet, metrics"),
        (["--anonymous-scopes", "models", "--api-key-file", "keys"], "for a server without keys"),
    ],
)
def test_wrong_scopes_are_refused(flags: list[str], message: str) -> None:
    """With the right ones, or the flag to leave out."""
    with pytest.raises(ConfigError, match=message):
        parsed(*flags)
