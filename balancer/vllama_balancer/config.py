"""The balancer's configuration: parsed once from flags and environment, refused when wrong.

Every setting stands in one table, so that its flag, its environment twin, Ollama's variable for
the same thing and its help cannot drift apart. A flag beats `VLLAMA_…`, which beats `OLLAMA_…`. A wrong
flag or `VLLAMA_…` value is refused; a wrong `OLLAMA_…` value only warns, as Ollama does.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama_balancer import values
from vllama_balancer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

EMBEDDED_MODEL = "smollm2:135m"
"""What is served when nothing is named: its weights ship with the installation."""

POLICIES = ("expected-completion", "least-load", "round-robin", "random")


@dataclass(frozen=True, slots=True)
class BalancerConfig:
    """Everything the balancer process can be told."""

    models: tuple[str, ...] = (EMBEDDED_MODEL,)
    """Models to load at the start; they share the workers."""
    is_pinned: bool = False
    """Whether they were named, and so never leave; others then come only where a model has workers to spare."""
    host: str = "127.0.0.1"
    """Address that both front doors bind."""
    port: int = 11434
    """HTTP port; 0 takes a free one."""
    grpc_port: int = 50051
    """gRPC port; 0 takes a free one."""
    workers: int | None = None
    """Local workers; None: one per GPU, one on a machine without."""
    worker_addresses: tuple[str, ...] = ()
    """Running workers to use instead of local ones: "host:port", "unix:/path" or "dns:///name:port"."""
    engine: str = "vllm"
    """"vllm", or "fake" for a simulation without weights."""
    device: str = "auto"
    """"auto", "cuda" or "cpu"."""
    policy: str = "expected-completion"
    """How a worker is picked."""
    max_queue: int = 512
    """Requests that may wait for a worker."""
    max_streams: int | None = None
    """Streams of one worker at once; None: the worker's default."""
    max_model_len: int | None = None
    """Context length; None: the worker's default; 0: the model's own."""
    gpu_memory_utilization: float | None = None
    """Share of a GPU's memory that its workers take together; None: the worker's default."""
    deterministic: bool = False
    """Whether greedy and seeded output must not depend on the batch."""
    engine_args: tuple[tuple[str, str], ...] = ()
    """Arguments for the engine; a key "0.speed" goes to worker 0 alone."""
    models_directory: Path = field(default_factory=Path)
    """The model store."""
    keep_alive_seconds: float = 300.0
    """How long an idle model that is not pinned stays loaded; negative: for ever."""
    load_timeout_seconds: float = 300.0
    """How long a worker may show no progress while it starts; 0: without limit."""
    max_loaded_models: int = 0
    """Most models loaded at once; 0: as many as there is room for."""
    origins: tuple[str, ...] = ()
    """Browser origins that are let in beside the local ones."""
    api_keys: Path | None = None
    """File with the hashes of the API keys; None: no key is asked for."""
    tls_certificate: Path | None = None
    """PEM file for both front doors; None: plain text."""
    tls_key: Path | None = None
    """PEM file with its private key."""
    drain_timeout_seconds: float = 30.0
    """How long running streams may take when the process is told to end."""
    log_format: str = "text"
    """"text" or "json"."""
    log_level: str = "info"
    """"debug", "info", "warning" or "error"."""
    warnings: tuple[str, ...] = ()
    """What was wrong and has been replaced by its default, for the log."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table of settings."""

    target: str
    """Field of BalancerConfig."""
    flag: str
    """Name on the command line, without dashes."""
    parse: Callable[[str], Any]
    """Turns text into a value; ValueError says what would be right."""
    help: str
    metavar: str = ""
    ollama: str = ""
    """Ollama's variable for the same thing."""
    parse_ollama: Callable[[str], Any] | None = None
    """How that one is read, when differently."""
    repeatable: bool = False
    """Whether it collects values; its environment twin is a comma list."""
    switch: bool = False
    """Whether it is a flag without a value."""

    @property
    def variable(self) -> str:
        """The environment twin."""
        return "VLLAMA_" + self.flag.upper().replace("-", "_")


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return parse


SETTINGS = (
    Setting("host", "host", values.host, "address to listen on (default 127.0.0.1)", "ADDRESS", "OLLAMA_HOST",
            lambda text: values.ollama_host(text)[0]),
    Setting("port", "port", values.port, "HTTP port for Ollama and OpenAI clients (default 11434)", "PORT",
            "OLLAMA_HOST", lambda text: values.ollama_host(text)[1]),
    Setting("grpc_port", "grpc-port", values.port, "gRPC port (default 50051)", "PORT"),
    Setting("workers", "workers", values.positive, "local workers (default one per GPU, 1 without)", "N"),
    Setting("worker_addresses", "worker", values.worker_address,
            "use a running worker instead: host:port, unix:/path or dns:///name:port; repeatable", "ADDRESS",
            repeatable=True),
    Setting("engine", "engine", _one_of("vllm", "fake"), "vllm, or fake: a simulation without weights", "NAME"),
    Setting("device", "device", _one_of("auto", "cuda", "cpu"), "auto, cuda or cpu", "NAME"),
    Setting("policy", "policy", _one_of(*POLICIES), f"{', '.join(POLICIES[:-1])} or {POLICIES[-1]}", "NAME"),
    Setting("max_queue", "max-queue", values.natural, "requests that may wait (default 512)", "N",
            "OLLAMA_MAX_QUEUE"),
    Setting("max_streams", "max-streams", values.positive, "streams of one worker at once", "N",
            "OLLAMA_NUM_PARALLEL", values.zero_as_none),
    Setting("max_model_len", "max-model-len", values.natural, "context length; 0: the model's own", "TOKENS",
            "OLLAMA_CONTEXT_LENGTH", values.zero_as_none),
    Setting("gpu_memory_utilization", "gpu-memory-utilization", values.share,
            "share of a GPU's memory to use, above 0 to 1", "SHARE"),
    Setting("deterministic", "deterministic", values.boolean, "greedy and seeded output independent of the batch",
            switch=True),
    Setting("engine_args", "engine-arg", values.key_value,
            "argument for the engine; 0.key=value: for worker 0 alone; repeatable", "KEY=VALUE", repeatable=True),
    Setting("models_directory", "models", values.path, "the model store", "DIRECTORY", "OLLAMA_MODELS"),
    Setting("keep_alive_seconds", "keep-alive", values.keep_alive, "how long an idle model stays loaded (default 5m)",
            "DURATION", "OLLAMA_KEEP_ALIVE"),
    Setting("load_timeout_seconds", "load-timeout", values.timeout,
            "longest stall of a starting worker (default 5m; 0: none)", "DURATION", "OLLAMA_LOAD_TIMEOUT"),
    Setting("max_loaded_models", "max-loaded-models", values.natural, "most models loaded at once (default: what fits)",
            "N", "OLLAMA_MAX_LOADED_MODELS"),
    Setting("origins", "origin", str, "browser origin to let in; repeatable", "ORIGIN", "OLLAMA_ORIGINS",
            repeatable=True),
    Setting("api_keys", "api-keys", values.path, "file with the hashes of accepted API keys", "FILE"),
    Setting("tls_certificate", "tls-cert", values.path, "PEM certificate for both front doors", "FILE"),
    Setting("tls_key", "tls-key", values.path, "PEM private key of the certificate", "FILE"),
    Setting("drain_timeout_seconds", "drain-timeout", values.timeout,
            "how long streams may finish at the end (default 30s)", "DURATION"),
    Setting("log_format", "log-format", _one_of("text", "json"), "text or json", "NAME"),
    Setting("log_level", "log-level", _one_of("debug", "info", "warning", "error"),
            "debug, info, warning or error", "NAME", "OLLAMA_DEBUG", values.ollama_debug),
)  # fmt: skip
"""Every setting but the models themselves, in the order of the help."""

WITHOUT_EFFECT = (
    "OLLAMA_FLASH_ATTENTION", "OLLAMA_SCHED_SPREAD", "OLLAMA_GPU_OVERHEAD", "OLLAMA_NOPRUNE", "OLLAMA_LLM_LIBRARY",
    "OLLAMA_VULKAN",
)  # fmt: skip
"""Ollama's variables that mean nothing here; they are accepted and named in the log."""


def parse(argv: Sequence[str], environment: Mapping[str, str], *, home: Path) -> BalancerConfig:
    """Reads flags and environment. Raises ConfigError with one sentence; SystemExit(0) for --help."""
    arguments = vars(_parser().parse_args(list(argv)))
    found: dict[str, Any] = {"models_directory": _default_store(environment, home)}
    warnings: list[str] = []
    for setting in SETTINGS:
        value = _value_of(setting, arguments.get(setting.target), environment, warnings)
        if value is not None:
            found[setting.target] = value
    models = tuple(arguments["names"]) or _comma_list(environment.get("VLLAMA_MODEL", ""))
    found["is_pinned"] = bool(models)
    found["models"] = models or (() if found.get("worker_addresses") else (EMBEDDED_MODEL,))
    found["engine_args"] = _kv_cache_type(environment, warnings) + found.get("engine_args", ())
    warnings += [f"{name} has no effect here" for name in WITHOUT_EFFECT if values.clean(environment.get(name, ""))]
    config = BalancerConfig(**found, warnings=tuple(warnings))
    _refuse_contradictions(config)
    return config


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, so that every refusal reads the same."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vllama serve",
        description="Serves models to Ollama, OpenAI and gRPC clients over a balanced fleet of workers.",
        epilog="Example: vllama serve qwen2.5:7b --workers 4. Every flag has a twin in the environment: --max-queue is "
        "VLLAMA_MAX_QUEUE.",
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"models to serve (default {EMBEDDED_MODEL})")
    for setting in SETTINGS:
        options: dict[str, Any] = {"dest": setting.target, "help": setting.help, "default": None}
        if setting.switch:
            parser.add_argument(f"--{setting.flag}", action="store_const", const="1", **options)
        else:
            action = "append" if setting.repeatable else "store"
            parser.add_argument(f"--{setting.flag}", action=action, metavar=setting.metavar, **options)
    return parser


def _value_of(setting: Setting, given: Any, environment: Mapping[str, str], warnings: list[str]) -> Any:
    if given is not None:
        return _parsed(setting, given, f"--{setting.flag}")
    if text := values.clean(environment.get(setting.variable, "")):
        return _parsed(setting, _comma_list(text) if setting.repeatable else text, setting.variable)
    if setting.ollama and (text := values.clean(environment.get(setting.ollama, ""))):
        read = setting.parse_ollama or setting.parse
        try:
            return tuple(map(read, _comma_list(text))) if setting.repeatable else read(text)
        except ValueError as error:
            warnings.append(f"{setting.ollama}={text} is ignored: it must be {error}")
    return None


def _parsed(setting: Setting, given: Any, origin: str) -> Any:
    try:
        return tuple(map(setting.parse, given)) if setting.repeatable else setting.parse(given)
    except ValueError as error:
        shown = ",".join(given) if setting.repeatable else given
        raise ConfigError(f"{origin} must be {error}, not {shown!r}", field=setting.target) from None


def _comma_list(text: str) -> tuple[str, ...]:
    return tuple(part for part in (values.clean(part) for part in text.split(",")) if part)


def _default_store(environment: Mapping[str, str], home: Path) -> Path:
    data = values.clean(environment.get("XDG_DATA_HOME", ""))
    return (Path(data) if data else home / ".local" / "share") / "vllama" / "models"


def _kv_cache_type(environment: Mapping[str, str], warnings: list[str]) -> tuple[tuple[str, str], ...]:
    """Ollama's q8_0 is vLLM's fp8; f16 is what the model has anyway."""
    kind = values.clean(environment.get("OLLAMA_KV_CACHE_TYPE", "")).lower()
    if kind == "q8_0":
        return (("kv_cache_dtype", "fp8"),)
    if kind not in ("", "f16"):
        warnings.append(f"OLLAMA_KV_CACHE_TYPE={kind} is ignored: it must be f16 or q8_0")
    return ()


def _refuse_contradictions(config: BalancerConfig) -> None:
    if config.worker_addresses and config.models:
        raise ConfigError(
            "models cannot be named together with --worker, which uses what running workers host; leave one out"
        )
    if config.worker_addresses and config.workers is not None:
        raise ConfigError("--workers starts local workers and --worker uses running ones; leave one out")
    if config.workers is not None and config.workers < len(config.models):
        raise ConfigError(f"--workers must be at least {len(config.models)}, one for each model, not {config.workers}")
    if config.port == config.grpc_port != 0:
        raise ConfigError(f"--port and --grpc-port must differ, and both are {config.port}")
    if (config.tls_certificate is None) != (config.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key need each other; give both or neither")
