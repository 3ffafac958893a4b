"""The table of the balancer's settings: one row holds flag, environment twin, Ollama's variable, reader and help.

One table, so that these cannot drift apart; `config.py` turns it into a configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllama_balancer.config import values

if TYPE_CHECKING:
    from collections.abc import Callable

POLICIES = ("expected-completion", "least-load", "round-robin", "random")


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
    Setting("host", "host", values.address, "address to listen on, with or without a port (default 127.0.0.1)",
            "ADDRESS", "OLLAMA_HOST", values.ollama_address),
    Setting("port", "port", values.port, "HTTP port for Ollama and OpenAI clients (default 11434)", "PORT"),
    Setting("grpc_port", "grpc-port", values.port, "gRPC port (default 50051)", "PORT"),
    Setting("workers", "workers", values.positive, "local workers (default one per GPU, 1 without)", "N"),
    Setting("fleet", "fleet", _one_of("local", "ray", "none"),
            "where workers are started: local, ray or none (default local)", "NAME"),
    Setting("ray_address", "ray-address", str, "Ray cluster: auto, or host:port of its head (default auto)", "ADDRESS"),
    Setting("replicas", "replicas", values.positive, "workers on the cluster (default one for each model)", "N"),
    Setting("tensor_parallel", "tensor-parallel", values.positive, "GPUs of one worker on the cluster (default 1)",
            "N"),
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
    Setting("sleep_seconds", "sleep-for", values.timeout,
            "how long it then sleeps in host memory, on GPUs (default 30m; 0: not)", "DURATION"),
    Setting("load_timeout_seconds", "load-timeout", values.timeout,
            "longest stall of a starting worker (default 5m; 0: none)", "DURATION", "OLLAMA_LOAD_TIMEOUT"),
    Setting("max_loaded_models", "max-loaded-models", values.natural, "most models loaded at once (default: what fits)",
            "N", "OLLAMA_MAX_LOADED_MODELS"),
    Setting("origins", "origin", str, "browser origin to let in; repeatable", "ORIGIN", "OLLAMA_ORIGINS",
            repeatable=True),
    Setting("trusted_proxies", "trusted-proxy", values.network,
            "proxy whose X-Forwarded-For tells the client, an address or a network; repeatable", "ADDRESS",
            repeatable=True),
    Setting("api_keys", "api-key-file", values.path, "file with the hashes of accepted API keys", "FILE"),
    Setting("tls_certificate", "tls-cert", values.path, "PEM certificate for both front doors", "FILE"),
    Setting("tls_key", "tls-key", values.path, "PEM private key of the certificate", "FILE"),
    Setting("tls_authority", "tls-ca", values.path,
            "PEM authority whose certificates gRPC callers and TCP workers must show", "FILE"),
    Setting("join_token_file", "join-token-file", values.path, "file with the token that lets workers join", "FILE"),
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
