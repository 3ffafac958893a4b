"""Flags, environment twins and Ollama's variables become one frozen configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllama_balancer.config import BalancerConfig, parse
from vllama_balancer.config.settings import SETTINGS
from vllama_balancer.errors import ConfigError

HOME = Path("/home/someone")


def parsed(*argv: str, **environment: str) -> BalancerConfig:
    """Parses in a home directory that need not exist."""
    return parse(argv, environment, home=HOME)


def test_defaults_serve_the_embedded_model_on_ollamas_port() -> None:
    """Without any flag the embedded model is served where Ollama would be."""
    config = parsed()
    assert (config.models, config.host, config.port, config.grpc_port) == (("smollm2:135m",), "127.0.0.1", 11434, 50051)
    assert config.models_directory == HOME / ".local/share/vllama/models"


def test_flag_beats_vllama_beats_ollama() -> None:
    """The nearer source wins."""
    both = {"VLLAMA_MAX_QUEUE": "2", "OLLAMA_MAX_QUEUE": "3"}
    assert parsed("--max-queue", "1", **both).max_queue == 1
    assert parsed(**both).max_queue == 2
    assert parsed(OLLAMA_MAX_QUEUE="3").max_queue == 3


@pytest.mark.parametrize("field", SETTINGS, ids=lambda field: SETTINGS[field].flag)
def test_every_flag_has_an_environment_twin(field: str) -> None:
    """A value given by the twin arrives as one given by the flag does."""
    setting = SETTINGS[field]
    value = {
        "host": "::1", "port": "1", "grpc-port": "2", "worker": "h:1,h:2", "engine": "fake", "device": "cpu",
        "policy": "random", "gpu-memory-utilization": "0.5", "deterministic": "1",
        "trust-client-templates": "1", "engine-arg": "a=1,0.b=2",
        "models": "/m", "log-format": "json", "log-level": "debug", "origin": "http://a,http://b",
        "trusted-proxy": "10.0.0.0/8", "anonymous-scopes": "none", "pull-from": "table,Qwen/Qwen3-8B",
        "api-key-file": "/k", "tls-cert": "/c", "tls-key": "/t", "fleet": "ray",
    }.get(setting.flag, "7")  # fmt: skip
    others = {
        "tls-cert": ["--tls-key", "/t"], "tls-key": ["--tls-cert", "/c"],
        "tls-ca": ["--tls-cert", "/c", "--tls-key", "/t"],
        "replicas": ["--fleet", "ray"], "tensor-parallel": ["--fleet", "ray"],
    }.get(setting.flag, [])  # fmt: skip
    flags = [f"--{setting.flag}"] if setting.switch else []
    for part in value.split(",") if setting.repeatable else [value]:
        flags += [] if setting.switch else [f"--{setting.flag}", part]
    by_flag, by_twin = parsed(*others, *flags), parsed(*others, **{setting.variable: value})
    assert getattr(by_flag, field) == getattr(by_twin, field) != getattr(parsed(), field)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--port", "70000"], ["--port", "0 to 65535", "70000"]),
        (["--workers", "0"], ["--workers", "1 or more"]),
        (["--worker", "nohost"], ["--worker", "host:port"]),
        (["--gpu-memory-utilization", "1.5"], ["--gpu-memory-utilization", "up to 1"]),
        (["--policy", "best"], ["--policy", "least-load"]),
        (["--engine-arg", "speed"], ["--engine-arg", "KEY=VALUE"]),
        (["--drain-timeout", "soon"], ["--drain-timeout", "duration"]),
        (["--host", "127.0.0.1:http"], ["--host", "0.0.0.0:8080"]),
        (["--host", "ftp://127.0.0.1"], ["--host", "http://0.0.0.0:8080"]),
        (["--wrokers", "1"], ["--wrokers", "--help"]),
        (["a", "--worker", "h:1"], ["--worker", "leave one out"]),
        (["--workers", "1", "--worker", "h:1"], ["--workers", "leave one out"]),
        (["a", "b", "--workers", "1"], ["--workers", "at least 2"]),
        (["--port", "5", "--grpc-port", "5"], ["--port", "--grpc-port", "differ"]),
        (["--tls-cert", "c.pem"], ["--tls-cert", "--tls-key"]),
    ],
)
def test_refusal_names_the_flag_and_the_fix(argv: list[str], words: list[str]) -> None:
    """A wrong flag is refused with one line that names it and what would be right."""
    with pytest.raises(ConfigError) as refusal:
        parsed(*argv)
    assert "\n" not in str(refusal.value)
    assert all(word in str(refusal.value) for word in words)


def test_wrong_twin_is_refused_by_its_own_name() -> None:
    """A wrong VLLAMA_ value is as wrong as the flag."""
    with pytest.raises(ConfigError, match="VLLAMA_WORKERS must be"):
        parsed(VLLAMA_WORKERS="many")


def test_a_value_of_an_engine_argument_may_hold_commas() -> None:
    """The next argument begins where a key does, as in the worker's own twin."""
    config = parsed(VLLAMA_ENGINE_ARG='sizes=1,2,4, 0.speed=0.5,overrides={"a": 1, "b": 2}')
    assert config.engine_args == (("sizes", "1,2,4"), ("0.speed", "0.5"), ("overrides", '{"a": 1, "b": 2}'))


def test_wrong_ollama_value_only_warns() -> None:
    """Ollama falls back to the default for a bad value, and so does this."""
    config = parsed(OLLAMA_MAX_QUEUE="many")
    assert config.max_queue == 512
    assert "OLLAMA_MAX_QUEUE" in config.warnings[0]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0", ("0.0.0.0", 11434)),
        (":8080", ("127.0.0.1", 8080)),
        ("example.org:1234", ("example.org", 1234)),
        ("[::1]:99", ("::1", 99)),
        ("http://example.org", ("example.org", 80)),
        ("https://example.org/", ("example.org", 443)),
        ("http://example.org:8080", ("example.org", 8080)),
        ("::1", ("::1", 11434)),
    ],
)
def test_forms_of_the_address(text: str, address: tuple[str, int]) -> None:
    """Flag and both variables are read in all of Ollama's forms."""
    for config in (parsed("--host", text), parsed(VLLAMA_HOST=text), parsed(OLLAMA_HOST=text)):
        assert (config.host, config.port) == address


@pytest.mark.parametrize("text", ["1.2.3.4:notaport", ' "1.2.3.4:70000" ', "ftp://1.2.3.4", "1.2.3.4:x/"])
def test_a_wrong_ollama_host_keeps_its_host(text: str) -> None:
    """Ollama takes its own port then, and so does this."""
    config = parsed(OLLAMA_HOST=text)
    assert (config.host, config.port) == ("1.2.3.4", 11434)


@pytest.mark.parametrize(
    ("argv", "environment", "address"),
    [
        (["--host", "a:1", "--port", "2"], {}, ("a", 2)),
        (["--host", "a:1"], {"VLLAMA_PORT": "2", "VLLAMA_HOST": "b:3"}, ("a", 1)),
        (["--host", "a"], {"VLLAMA_HOST": "b:3"}, ("a", 11434)),
        ([], {"VLLAMA_HOST": "b:3", "VLLAMA_PORT": "2"}, ("b", 3)),
        ([], {"VLLAMA_HOST": "b", "VLLAMA_PORT": "2"}, ("b", 2)),
        ([], {"VLLAMA_HOST": "b", "OLLAMA_HOST": "c:4"}, ("b", 11434)),
        ([], {"OLLAMA_HOST": "c:4", "VLLAMA_PORT": "2"}, ("c", 2)),
        (["--port", "5"], {"OLLAMA_HOST": "c:4"}, ("c", 5)),
    ],
)
def test_the_port_of_the_nearest_source_counts(
    argv: list[str], environment: dict[str, str], address: tuple[str, int]
) -> None:
    """An address is taken with its port, except where --port, or VLLAMA_PORT beside OLLAMA_HOST, says another."""
    config = parsed(*argv, **environment)
    assert (config.host, config.port) == address


def test_ollama_variables_of_an_operator() -> None:
    """The other Ollama variables reach their settings, and those without effect are named."""
    config = parsed(
        OLLAMA_KEEP_ALIVE="-1", OLLAMA_NUM_PARALLEL="0", OLLAMA_CONTEXT_LENGTH="8192", OLLAMA_MODELS="~/m",
        OLLAMA_ORIGINS="http://a.example, app://x", OLLAMA_DEBUG="1", OLLAMA_KV_CACHE_TYPE="q8_0", OLLAMA_NOPRUNE="1",
        OLLAMA_LOAD_TIMEOUT="-5", OLLAMA_MAX_LOADED_MODELS="2",
    )  # fmt: skip
    assert config.keep_alive_seconds == -1
    assert config.max_streams is None
    assert config.max_model_len == 8192
    assert config.models_directory == Path("~/m").expanduser()
    assert config.origins == ("http://a.example", "app://x")
    assert config.log_level == "debug"
    assert config.engine_args == (("kv_cache_dtype", "fp8"),)
    assert config.load_timeout_seconds == 0
    assert config.max_loaded_models == 2
    assert config.warnings == ("OLLAMA_NOPRUNE has no effect here",)


def test_store_follows_xdg() -> None:
    """XDG_DATA_HOME moves the model store."""
    assert parsed(XDG_DATA_HOME="/data").models_directory == Path("/data/vllama/models")


def test_static_workers_need_no_model() -> None:
    """With --worker the models are those that the workers host."""
    config = parsed("--worker", "a:1", "--worker", "unix:/run/w")
    assert (config.models, config.worker_addresses) == ((), ("a:1", "unix:/run/w"))


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1h30m", 5400), ("1.5h", 5400), ("250ms", 0.25), ("0", 0)])
def test_durations(text: str, seconds: float) -> None:
    """Go durations and bare seconds are understood."""
    assert parsed("--keep-alive", text).keep_alive_seconds == seconds
