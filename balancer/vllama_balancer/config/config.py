"""Reads the balancer's configuration from the command line and the environment, once, and refuses what is wrong.

A flag beats `VLLAMA_…`, which beats `OLLAMA_…`. A wrong flag or `VLLAMA_…` value is refused; a wrong `OLLAMA_…`
value only warns, as Ollama does. `--help` shows the everyday flags, `--help-all` every flag.
"""

from __future__ import annotations

import argparse
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vllama_balancer.callers import ANONYMOUS_SCOPES
from vllama_balancer.config import values
from vllama_balancer.config.settings import (
    EMBEDDED_MODEL,
    KV_CACHE_VARIABLE,
    MODELS_VARIABLE,
    SETTINGS,
    WITHOUT_EFFECT,
    BalancerConfig,
)
from vllama_balancer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllama_balancer.config.settings import Setting

FLAGS_COLUMNS = 34
"""Columns for a flag and its value; the longest of the everyday ones fits."""
EXAMPLES = """\
examples:
  vllama serve                                the model that comes along
  vllama serve qwen2.5:7b                     one worker for each GPU
  vllama serve qwen2.5:7b bge-m3 --workers 4  two models share four workers

Every flag has a twin in the environment: --max-queue is VLLAMA_MAX_QUEUE."""


def parse(argv: Sequence[str], environment: Mapping[str, str], *, home: Path) -> BalancerConfig:
    """Reads flags and environment.

    Raises ConfigError with one sentence; SystemExit(0) for --help and --help-all.
    """
    arguments = vars(_parser(is_complete=False).parse_args(list(argv)))
    found: dict[str, Any] = {"models_directory": _default_store(environment, home)}
    warnings: list[str] = []
    for field, setting in SETTINGS.items():
        value = _value_of(field, setting, arguments.get(field), environment, warnings)
        if value is not None:
            found[field] = value
    found |= _host_and_port(found, arguments, environment)
    models = tuple(arguments["names"]) or _comma_list(environment.get(MODELS_VARIABLE, ""))
    found["is_pinned"] = bool(models)
    has_own_workers = not found.get("worker_addresses") and found.get("fleet") != "none"
    found["models"] = models or ((EMBEDDED_MODEL,) if has_own_workers else ())
    found["engine_args"] = _kv_cache_type(environment, warnings) + found.get("engine_args", ())
    warnings += [f"{name} has no effect here" for name in WITHOUT_EFFECT if values.clean(environment.get(name, ""))]
    config = BalancerConfig(**found, warnings=tuple(warnings))
    _refuse_contradictions(config)
    return config


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, so that every refusal reads the same."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


class _HelpAll(argparse.Action):
    """Prints the help with all flags in it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        _parser(is_complete=True).print_help()
        parser.exit()


def _parser(*, is_complete: bool) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vllama serve",
        usage="vllama serve [MODEL ...] [FLAGS]",
        description="Serves models to Ollama, OpenAI and gRPC clients, over a fleet of workers.",
        epilog=EXAMPLES,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=FLAGS_COLUMNS),
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"models to serve (default {EMBEDDED_MODEL})")
    parser.add_argument("--help-all", action=_HelpAll, nargs=0, dest=argparse.SUPPRESS, help="show all flags")
    for field, setting in SETTINGS.items():
        options: dict[str, Any] = {"dest": field, "default": None, "help": argparse.SUPPRESS}
        if is_complete or setting.everyday:
            options["help"] = setting.help.format(default=setting.default)
        if setting.switch:
            options |= {"action": "store_const", "const": "1"}
        else:
            options |= {"action": "append" if setting.repeatable else "store", "metavar": setting.metavar}
        parser.add_argument(f"--{setting.flag}", **options)
    return parser


_BEFORE_A_KEY = re.compile(r",(?=\s*[\w.-]+=)")


def _value_of(field: str, setting: Setting, given: Any, environment: Mapping[str, str], warnings: list[str]) -> Any:
    if given is not None:
        return _parsed(field, setting, given, f"--{setting.flag}")
    if text := values.clean(environment.get(setting.variable, "")):
        return _parsed(field, setting, _listed(setting, text) if setting.repeatable else text, setting.variable)
    if setting.ollama and (text := values.clean(environment.get(setting.ollama, ""))):
        read = setting.parse_ollama
        try:
            return tuple(map(read, _comma_list(text))) if setting.repeatable else read(text)
        except ValueError as error:
            warnings.append(f"{setting.ollama}={text} is ignored: it must be {error}")
    return None


def _parsed(field: str, setting: Setting, given: Any, origin: str) -> Any:
    try:
        return tuple(map(setting.parse, given)) if setting.repeatable else setting.parse(given)
    except ValueError as error:
        shown = ",".join(given) if setting.repeatable else given
        raise ConfigError(f"{origin} must be {error}, not {shown!r}", field=field) from None


def _host_and_port(
    found: Mapping[str, Any], arguments: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Splits an address; a port in it is beaten by --port, and one in OLLAMA_HOST by VLLAMA_PORT as well."""
    address = found.get("host")
    if address is None:
        return {}
    is_ollamas = arguments["host"] is None and not values.clean(environment.get(SETTINGS["host"].variable, ""))
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
    kind = values.clean(environment.get(KV_CACHE_VARIABLE, "")).lower()
    if kind == "q8_0":
        return (("kv_cache_dtype", "fp8"),)
    if kind not in ("", "f16"):
        warnings.append(f"{KV_CACHE_VARIABLE}={kind} is ignored: it must be f16 or q8_0")
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
    if config.api_keys is not None and config.anonymous_scopes != ANONYMOUS_SCOPES:
        raise ConfigError("--anonymous-scopes is for a server without keys; leave it or --api-key-file out")
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
