"""BalancerConfig: the table of the balancer's settings, one row each for flag, environment twin, default and help.

`config.py` is its only reader: it turns the command line and the environment into one BalancerConfig.
"""
# ruff: noqa: RUF009 - every default that is a call of `_flag` is a field of the dataclass

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllama_balancer.config import values

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Network, IPv6Network
    from pathlib import Path

    from vllama_balancer.keys import Scope

POLICIES = ("expected-completion", "least-load", "round-robin", "random")
EMBEDDED_MODEL = "smollm2:135m"
"""Served when no model is named: its weights ship with the installation."""
MODELS_VARIABLE = "VLLAMA_MODEL"
"""Environment twin of the models on the command line, a comma list."""
KV_CACHE_VARIABLE = "OLLAMA_KV_CACHE_TYPE"
"""Ollama's variable for one of the engine's arguments."""
WITHOUT_EFFECT = (
    "OLLAMA_FLASH_ATTENTION", "OLLAMA_SCHED_SPREAD", "OLLAMA_GPU_OVERHEAD", "OLLAMA_NOPRUNE", "OLLAMA_LLM_LIBRARY",
    "OLLAMA_VULKAN",
)  # fmt: skip
"""Ollama's variables that mean nothing here; they are accepted and named in the log."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How one field of BalancerConfig is set."""

    flag: str
    """Name on the command line, without dashes."""
    parse: Callable[[str], Any]
    """Turns text into a value; the text of its ValueError completes "it must be …"."""
    help: str
    """Text of the help, with `{default}` where the default is shown."""
    metavar: str
    default: str
    """The default as a user would type it; empty: unset."""
    everyday: bool
    """Whether the short help shows it."""
    ollama: str
    """Ollama's variable for the same thing."""
    parse_ollama: Callable[[str], Any]
    """Turns the text of Ollama's variable into a value."""
    repeatable: bool
    """Whether it collects values; its environment twin is a comma list."""
    switch: bool
    """Whether it is a flag without a value."""

    @property
    def variable(self) -> str:
        """The environment twin."""
        return "VLLAMA_" + self.flag.upper().replace("-", "_")


def _flag(
    flag: str,
    parse: Callable[[str], Any],
    help: str,
    metavar: str = "",
    *,
    default: str = "",
    parse_default: Callable[[str], Any] | None = None,
    everyday: bool = False,
    ollama: str = "",
    parse_ollama: Callable[[str], Any] | None = None,
    repeatable: bool = False,
    switch: bool = False,
) -> Any:
    """Returns a field of BalancerConfig that carries its row of the table."""
    row = Setting(
        flag, parse, help, metavar, default, everyday, ollama, parse_ollama or parse, repeatable, switch
    )  # fmt: skip
    value: object = () if repeatable else False if switch else None
    if default:
        value = (parse_default or parse)(default)
    return dataclasses.field(default=value, metadata={"setting": row})


@dataclass(frozen=True, slots=True)
class BalancerConfig:
    """The whole configuration of a balancer process. The order of the fields is that of the help."""

    models: tuple[str, ...] = (EMBEDDED_MODEL,)
    """Models to load at the start; they share the workers."""
    is_pinned: bool = False
    """True if `models` were named: they are never unloaded, and other models take only replicas that they can spare."""
    host: str = _flag(
        "host", values.address, "address to listen on, with or without a port (default {default})", "ADDRESS",
        default="127.0.0.1", parse_default=str, everyday=True, ollama="OLLAMA_HOST", parse_ollama=values.ollama_address,
    )  # fmt: skip
    port: int = _flag(
        "port", values.port, "HTTP port for Ollama and OpenAI clients (default {default})", "PORT",
        default="11434", everyday=True,
    )  # fmt: skip
    """HTTP port; 0 takes a free one."""
    grpc_port: int = _flag(
        "grpc-port", values.port, "gRPC port (default {default})", "PORT", default="50051", everyday=True
    )
    """gRPC port; 0 takes a free one."""
    workers: int | None = _flag(
        "workers", values.positive, "local workers (default one per GPU, 1 without)", "N", everyday=True
    )
    """None: one per GPU, one on a machine without."""
    fleet: str = _flag(
        "fleet", values.one_of("local", "ray", "none"),
        "where workers are started: local, ray or none (default {default})", "NAME", default="local",
    )  # fmt: skip
    """"none": only workers that join or are named by address."""
    ray_address: str = _flag(
        "ray-address", str, "Ray cluster: auto, or host:port of its head (default {default})", "ADDRESS", default="auto"
    )
    """"auto": the cluster that this machine belongs to."""
    replicas: int | None = _flag(
        "replicas", values.positive, "workers on the cluster (default one for each model)", "N"
    )
    tensor_parallel: int = _flag(
        "tensor-parallel", values.positive, "GPUs of one worker on the cluster (default {default})", "N", default="1"
    )
    worker_addresses: tuple[str, ...] = _flag(
        "worker", values.worker_address,
        "use a running worker instead: host:port, unix:/path or dns:///name:port; repeatable", "ADDRESS",
        everyday=True, repeatable=True,
    )  # fmt: skip
    engine: str = _flag(
        "engine", values.one_of("vllm", "fake"), "vllm, or fake: a simulation without weights", "NAME",
        default="vllm", everyday=True,
    )  # fmt: skip
    device: str = _flag(
        "device", values.one_of("auto", "cuda", "cpu"), "auto, cuda or cpu", "NAME", default="auto", everyday=True
    )
    policy: str = _flag(
        "policy", values.one_of(*POLICIES), f"{', '.join(POLICIES[:-1])} or {POLICIES[-1]}", "NAME", default=POLICIES[0]
    )
    max_queue: int = _flag(
        "max-queue", values.natural, "requests that may wait (default {default})", "N",
        default="512", everyday=True, ollama="OLLAMA_MAX_QUEUE",
    )  # fmt: skip
    max_streams_per_client: int | None = _flag(
        "max-streams-per-client", values.positive,
        "streams of one client at once (default what the workers serve, or 512)", "N",
    )  # fmt: skip
    """None: as many as all workers serve together, 512 at least."""
    max_request_bytes: int = _flag(
        "max-request-bytes", values.message_size, "longest request, decompressed (default {default})", "BYTES",
        default="32MiB",
    )  # fmt: skip
    max_request_text_bytes: int = _flag(
        "max-request-text-bytes", values.message_size, "its longest text, without pictures (default {default})",
        "BYTES", default="8MiB",
    )  # fmt: skip
    max_inflight_bytes: int = _flag(
        "max-inflight-bytes", values.byte_size, "bytes of all requests at once (default {default})", "BYTES",
        default="96MiB",
    )  # fmt: skip
    """One client may have half of them; the first 64 KiB of each request do not count."""
    max_streams: int | None = _flag(
        "max-streams", values.positive, "streams of one worker at once", "N",
        everyday=True, ollama="OLLAMA_NUM_PARALLEL", parse_ollama=values.zero_as_none,
    )  # fmt: skip
    """None: the worker's default."""
    max_model_len: int | None = _flag(
        "max-model-len", values.natural, "context length; 0: the model's own", "TOKENS",
        everyday=True, ollama="OLLAMA_CONTEXT_LENGTH", parse_ollama=values.zero_as_none,
    )  # fmt: skip
    """None: the worker's default."""
    gpu_memory_utilization: float | None = _flag(
        "gpu-memory-utilization", values.share, "share of a GPU's memory to use, above 0 to 1", "SHARE", everyday=True
    )
    """Share that the workers of one GPU take together; None: the worker's default."""
    deterministic: bool = _flag(
        "deterministic", values.boolean, "greedy and seeded output independent of the batch", switch=True
    )
    engine_args: tuple[tuple[str, str], ...] = _flag(
        "engine-arg", values.key_value, "argument for the engine; 0.key=value: for worker 0 alone; repeatable",
        "KEY=VALUE", repeatable=True,
    )  # fmt: skip
    trust_client_templates: bool = _flag(
        "trust-client-templates", values.boolean, "render chat templates that come with requests", switch=True
    )
    models_directory: Path = _flag(
        "models", values.path, "the model store", "DIRECTORY", default=".", everyday=True, ollama="OLLAMA_MODELS"
    )
    """`parse` replaces the default by the user's data directory."""
    pull_sources: tuple[str, ...] = _flag(
        "pull-from", values.pull_source,
        "where clients may pull models from: table (the known models), an organization or repository of the hub, "
        "or any; repeatable (default table)", "SOURCE", repeatable=True,
    )  # fmt: skip
    """Empty: the table's."""
    pull_quota_bytes: int | None = _flag(
        "pull-quota", values.byte_size, "most bytes of weights that pulls may fill the store with (default: the disk)",
        "BYTES",
    )  # fmt: skip
    keep_alive_seconds: float = _flag(
        "keep-alive", values.duration, "how long an idle model stays loaded (default {default})", "DURATION",
        default="5m", everyday=True, ollama="OLLAMA_KEEP_ALIVE",
    )  # fmt: skip
    """For a model that is not pinned; negative: for ever."""
    sleep_seconds: float = _flag(
        "sleep-for", values.timeout, "how long it then sleeps in host memory, on GPUs (default {default}; 0: not)",
        "DURATION", default="30m",
    )  # fmt: skip
    load_timeout_seconds: float = _flag(
        "load-timeout", values.timeout, "longest stall of a starting worker (default {default}; 0: none)", "DURATION",
        default="5m", ollama="OLLAMA_LOAD_TIMEOUT",
    )  # fmt: skip
    """How long a starting worker may show no progress; 0: without limit."""
    max_loaded_models: int = _flag(
        "max-loaded-models", values.natural, "most models loaded at once (default: what fits)", "N",
        default="0", ollama="OLLAMA_MAX_LOADED_MODELS",
    )  # fmt: skip
    """0: as many as there is room for."""
    origins: tuple[str, ...] = _flag(
        "origin", str, "browser origin to let in; repeatable", "ORIGIN", ollama="OLLAMA_ORIGINS", repeatable=True
    )
    """Browser origins that are accepted beside the local ones."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = _flag(
        "trusted-proxy", values.network,
        "proxy whose X-Forwarded-For names the client, an address or a network; repeatable", "ADDRESS",
        repeatable=True,
    )  # fmt: skip
    anonymous_scopes: frozenset[Scope] = _flag(
        "anonymous-scopes", values.scopes,
        "without keys, what callers from other machines may do: a list of infer, models, fleet, metrics, or none "
        "(default {default})", "SCOPES", default="infer,metrics",
    )  # fmt: skip
    """Callers on this machine may do everything where no keys are set."""
    api_keys: Path | None = _flag(
        "api-key-file", values.path, "file with the hashes of accepted API keys", "FILE", everyday=True
    )
    """None: no key is required."""
    tls_certificate: Path | None = _flag("tls-cert", values.path, "PEM certificate for both front doors", "FILE")
    """None: plain text."""
    tls_key: Path | None = _flag("tls-key", values.path, "PEM private key of the certificate", "FILE")
    tls_authority: Path | None = _flag(
        "tls-ca", values.path, "PEM authority whose certificates gRPC callers and TCP workers must show", "FILE"
    )
    """None: no certificate is required."""
    join_token_file: Path | None = _flag(
        "join-token-file", values.path, "file with the token that lets workers join", "FILE"
    )
    """None: no worker may join."""
    drain_timeout_seconds: float = _flag(
        "drain-timeout", values.timeout, "how long streams may finish at the end (default {default})", "DURATION",
        default="30s",
    )  # fmt: skip
    log_format: str = _flag("log-format", values.one_of("text", "json"), "text or json", "NAME", default="text")
    log_level: str = _flag(
        "log-level", values.one_of("debug", "info", "warning", "error"), "debug, info, warning or error", "NAME",
        default="info", ollama="OLLAMA_DEBUG", parse_ollama=values.ollama_debug,
    )  # fmt: skip
    warnings: tuple[str, ...] = ()
    """Values of Ollama's variables that were replaced by a default, for the log."""


SETTINGS: dict[str, Setting] = {
    field.name: field.metadata["setting"] for field in dataclasses.fields(BalancerConfig) if field.metadata
}
"""Every row of the table by its field, in the order of the help."""
VARIABLES = frozenset(setting.variable for setting in SETTINGS.values()) | {MODELS_VARIABLE}
"""Every environment twin."""
