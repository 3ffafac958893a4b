"""The balancer's configuration: parsed once from flags and environment, refused when wrong.

A flag beats `VLLAMA_…`, which beats `OLLAMA_…`. A wrong flag or `VLLAMA_…` value is refused; a wrong `OLLAMA_…`
value only warns, as Ollama does.

The flags of the balancer process, and a help that fits a screen.

`--help` shows the flags that people need, `--help-all` every one: a list of forty hides what a reader looks for.
"""

from __future__ import annotations

import argparse
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vllama_balancer.config import values
from vllama_balancer.config.settings import SETTINGS, WITHOUT_EFFECT
from vllama_balancer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from vllama_balancer.config.settings import Setting


EMBEDDED_MODEL = "smollm2:135m"
"""What is served when nothing is named: its weights ship with the installation."""


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
    fleet: str = "local"
    """Where workers are started: "local", "ray" for a cluster, or "none" for those that join by themselves."""
    ray_address: str = "auto"
    """The Ray cluster: "auto" for the one that this machine belongs to, or its head as "host:port"."""
    replicas: int | None = None
    """Workers on the cluster; None: one for each model."""
    tensor_parallel: int = 1
    """GPUs of one worker on the cluster."""
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
    sleep_seconds: float = 1800.0
    """How long an idle model then sleeps in the host's memory, on GPUs; 0: it ends at once."""
    load_timeout_seconds: float = 300.0
    """How long a worker may show no progress while it starts; 0: without limit."""
    max_loaded_models: int = 0
    """Most models loaded at once; 0: as many as there is room for."""
    origins: tuple[str, ...] = ()
    """Browser origins that are let in beside the local ones."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Proxies whose X-Forwarded-For tells the client's address."""
    api_keys: Path | None = None
    """File with the hashes of the API keys; None: no key is asked for."""
    tls_certificate: Path | None = None
    """PEM file for both front doors; None: plain text."""
    tls_key: Path | None = None
    """PEM file with its private key."""
    tls_authority: Path | None = None
    """PEM file of the authority whose certificates gRPC callers and TCP workers must show; None: none is asked for."""
    join_token_file: Path | None = None
    """File with the token that workers show to join; None: nobody may."""
    drain_timeout_seconds: float = 30.0
    """How long running streams may take when the process is told to end."""
    log_format: str = "text"
    """"text" or "json"."""
    log_level: str = "info"
    """"debug", "info", "warning" or "error"."""
    warnings: tuple[str, ...] = ()
    """What was wrong and has been replaced by its default, for the log."""


def parse(argv: Sequence[str], environment: Mapping[str, str], *, home: Path) -> BalancerConfig:
    """Reads flags and environment. Raises ConfigError with one sentence; SystemExit(0) for --help and --help-all."""
    arguments = read_flags(argv, EMBEDDED_MODEL)
    found: dict[str, Any] = {"models_directory": _default_store(environment, home)}
    warnings: list[str] = []
    for setting in SETTINGS:
        value = _value_of(setting, arguments.get(setting.target), environment, warnings)
        if value is not None:
            found[setting.target] = value
    found |= _host_and_port(found, arguments, environment)
    models = tuple(arguments["names"]) or _comma_list(environment.get("VLLAMA_MODEL", ""))
    found["is_pinned"] = bool(models)
    has_own_workers = not found.get("worker_addresses") and found.get("fleet") != "none"
    found["models"] = models or ((EMBEDDED_MODEL,) if has_own_workers else ())
    found["engine_args"] = _kv_cache_type(environment, warnings) + found.get("engine_args", ())
    warnings += [f"{name} has no effect here" for name in WITHOUT_EFFECT if values.clean(environment.get(name, ""))]
    config = BalancerConfig(**found, warnings=tuple(warnings))
    _refuse_contradictions(config)
    return config


_BEFORE_A_KEY = re.compile(r",(?=\s*[\w.-]+=)")


def _value_of(setting: Setting, given: Any, environment: Mapping[str, str], warnings: list[str]) -> Any:
    if given is not None:
        return _parsed(setting, given, f"--{setting.flag}")
    if text := values.clean(environment.get(setting.variable, "")):
        return _parsed(setting, _listed(setting, text) if setting.repeatable else text, setting.variable)
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


def _host_and_port(
    found: Mapping[str, Any], arguments: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Takes an address apart; a port in it is beaten by --port, and one in OLLAMA_HOST by VLLAMA_PORT as well."""
    address = found.get("host")
    if address is None:
        return {}
    is_ollamas = arguments["host"] is None and not values.clean(environment.get("VLLAMA_HOST", ""))
    is_beaten = arguments["port"] is not None or (is_ollamas and "port" in found)
    if address.port is None or is_beaten:
        return {"host": address.host}
    return {"host": address.host, "port": address.port}


def _listed(setting: Setting, text: str) -> tuple[str, ...]:
    """Splits a list at commas; pairs only where another key follows, so that a value may hold commas itself."""
    if setting.parse is not values.key_value:
        return _comma_list(text)
    return tuple(part for part in (values.clean(part.strip(" ,")) for part in _BEFORE_A_KEY.split(text)) if part)


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
    if config.worker_addresses and config.models and config.fleet == "local":
        raise ConfigError(
            "models cannot be named together with --worker, which uses what running workers host; leave one out"
        )
    if config.worker_addresses and config.workers is not None:
        raise ConfigError("--workers starts local workers and --worker uses running ones; leave one out")
    _refuse_contradictions_of_fleets(config)
    if config.workers is not None and config.workers < len(config.models):
        raise ConfigError(f"--workers must be at least {len(config.models)}, one for each model, not {config.workers}")
    if config.port == config.grpc_port != 0:
        raise ConfigError(f"--port and --grpc-port must differ, and both are {config.port}")
    if (config.tls_certificate is None) != (config.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key need each other; give both or neither")
    if config.tls_authority is not None and config.tls_certificate is None:
        raise ConfigError("--tls-ca asks others for certificates and needs one to show: give --tls-cert and --tls-key")


def _refuse_contradictions_of_fleets(config: BalancerConfig) -> None:
    if config.fleet == "none":
        _refuse_work_for_no_workers(config)
    if config.fleet != "ray":
        for flag, is_set in (
            ("--replicas", config.replicas is not None),
            ("--tensor-parallel", config.tensor_parallel > 1),
        ):
            if is_set:
                raise ConfigError(f"{flag} is for workers on a cluster; add --fleet ray, or leave it out")
        return
    if config.worker_addresses:
        raise ConfigError("--fleet ray starts workers and --worker uses running ones; leave one out")
    if config.workers is not None:
        raise ConfigError("--workers counts local workers; with --fleet ray give --replicas")
    if config.replicas is not None and config.replicas < len(config.models):
        raise ConfigError(
            f"--replicas must be at least {len(config.models)}, one for each model, not {config.replicas}"
        )
    if config.tensor_parallel > 1 and config.device == "cpu":
        raise ConfigError("--tensor-parallel divides a model among GPUs; leave it out, or --device cpu")


def _refuse_work_for_no_workers(config: BalancerConfig) -> None:
    if config.models or config.workers is not None:
        raise ConfigError("--fleet none starts no workers; leave the models and --workers out, or --fleet none")
    if config.join_token_file is None and not config.worker_addresses:
        raise ConfigError("--fleet none needs workers from elsewhere: give --join-token-file or --worker")


EVERYDAY = (
    "host", "port", "grpc-port", "workers", "worker", "engine", "device", "max-queue", "max-streams", "max-model-len",
    "gpu-memory-utilization", "models", "keep-alive", "api-key-file",
)  # fmt: skip
"""Flags of the short help."""
FLAGS_COLUMNS = 34
"""Columns for a flag and its value; the longest of those that are always shown fits."""
EXAMPLES = """\
examples:
  vllama serve                                the model that comes along
  vllama serve qwen2.5:7b                     one worker for each GPU
  vllama serve qwen2.5:7b bge-m3 --workers 4  two models share four workers

Every flag has a twin in the environment: --max-queue is VLLAMA_MAX_QUEUE."""


def read_flags(argv: Sequence[str], default_model: str) -> Mapping[str, Any]:
    """Reads what is on the command line, as text: "names", and each setting by its target, None when it is not there.

    Raises ConfigError for what is no flag; SystemExit(0) once help has been printed.
    """
    return vars(_parser(default_model, is_complete=False).parse_args(list(argv)))


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, so that every refusal reads the same."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


class _HelpAll(argparse.Action):
    """Prints the help with all flags in it."""

    def __init__(self, *args: Any, default_model: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._default_model = default_model

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        _parser(self._default_model, is_complete=True).print_help()
        parser.exit()


def _parser(default_model: str, *, is_complete: bool) -> argparse.ArgumentParser:
    """Makes the parser; its help has every flag when it is to be complete."""
    parser = _Parser(
        prog="vllama serve",
        usage="vllama serve [MODEL ...] [FLAGS]",
        description="Serves models to Ollama, OpenAI and gRPC clients, over a fleet of workers.",
        epilog=EXAMPLES,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=FLAGS_COLUMNS),
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"models to serve (default {default_model})")
    parser.add_argument(
        "--help-all",
        action=_HelpAll,
        nargs=0,
        default_model=default_model,
        dest=argparse.SUPPRESS,
        help="show all flags",
    )
    for setting in SETTINGS:
        _add(parser, setting, is_shown=is_complete or setting.flag in EVERYDAY)
    return parser


def _add(parser: argparse.ArgumentParser, setting: Setting, *, is_shown: bool) -> None:
    options: dict[str, Any] = {"dest": setting.target, "default": None}
    options["help"] = setting.help if is_shown else argparse.SUPPRESS
    if setting.switch:
        parser.add_argument(f"--{setting.flag}", action="store_const", const="1", **options)
    else:
        action = "append" if setting.repeatable else "store"
        parser.add_argument(f"--{setting.flag}", action=action, metavar=setting.metavar, **options)
