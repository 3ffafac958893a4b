"""The worker's configuration: parsed once from flags and their environment twins, refused at start when wrong.

Every flag has a twin `VLLAMA_<FLAG>`; a flag beats its twin. Nothing else in the worker reads
flags or the environment, so what a worker does follows from one printed value.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from vllama_server import values
from vllama_server.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


DEFAULT_LISTEN = "127.0.0.1:50061"
FLAGS_COLUMNS = 34
"""Columns for a flag and its value; the longest of the everyday ones fits."""
EXAMPLES = """\
example:
  vllama worker qwen2.5:7b --listen 0.0.0.0:50061 --insecure, and elsewhere
  vllama serve --worker 10.0.0.7:50061

Every flag has a twin in the environment, which it beats: --max-streams is
VLLAMA_MAX_STREAMS."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The settings of a worker."""

    model: str
    """Local directory or Hugging Face id; any word for the simulated engine."""
    listen: str = DEFAULT_LISTEN
    """gRPC address: "unix:/path" or "host:port"; port 0 takes a free one."""
    name: str = "worker-0"
    """Name of the worker in reports, logs and `started` events."""
    served_names: tuple[str, ...] = ()
    """Names under which the model is served, the one to show first; empty means the model itself."""
    engine: str = "vllm"
    """"vllm" or "fake"."""
    device: str = "auto"
    """"auto", "cuda" or "cpu"."""
    max_streams: int | None = None
    """Streams in the engine at once; None takes the engine's own default."""
    max_queue: int = 512
    """Requests that may wait beyond `max_streams`; more are refused."""
    max_model_len: int = 4096
    """Longest context in tokens, capped by the model's own; 0 means the model's own."""
    gpu_memory_utilization: float = 0.9
    """Share of the device's memory that the engine may take, above 0 up to 1."""
    deterministic: bool = False
    """True if greedy and seeded output must not depend on the batch or on a failover."""
    engine_args: Mapping[str, str] = field(default_factory=dict)
    """Arguments for the engine as given; the engine types and checks them."""
    trust_client_templates: bool = False
    """True if a request may bring its own chat template; those of /api/create need no trust."""
    metrics: str | None = None
    """host:port of the Prometheus endpoint; None: none. Port 0 takes a free one."""
    tls_certificate: str | None = None
    """PEM file of the certificate chain for a TCP address; None: unencrypted. Unix sockets never are encrypted."""
    tls_key: str | None = None
    """PEM file of the certificate's private key."""
    insecure: bool = False
    """True if plain text may leave the machine: an open port, the token for joining."""
    tls_authority: str | None = None
    """PEM file of the authority whose certificates callers must show; None: they need none."""
    joins: tuple[str, ...] = ()
    """gRPC addresses of the balancers to join, "host:port"."""
    join_token_file: str | None = None
    """File with the balancers' token for joining."""
    advertise: str | None = None
    """"host:port" where balancers reach this worker; None: where it listens."""
    drain_timeout_seconds: float = 30.0
    """How long running streams may take after SIGTERM before they are ended."""
    stall_seconds: float = 60.0
    """An engine that has work and makes no step for so long counts as dead; 0 turns this off."""
    parent_fd: int | None = None
    """Read end of a pipe that the supervisor holds open; its end ends the worker. None: no supervisor."""
    log_format: str = "text"
    """"text" or "json"."""
    cuda_visible_devices: str | None = None
    """CUDA_VISIBLE_DEVICES as it was found; None: unset, every device is visible."""

    @property
    def names(self) -> tuple[str, ...]:
        """The served names, never empty; the first is the one to show."""
        return self.served_names or (self.model,)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> WorkerConfig:
    """Reads flags, then environment twins, then defaults.

    Raises ConfigError with one sentence that names the flag (or its twin) and the fix. `--help` and
    `--help-all` print flags and raise SystemExit(0).
    """
    given = vars(_parser().parse_args(argv))
    found: dict[str, Any] = {}
    for flag in _FLAGS:
        value = flag.value(given[flag.field], environ)
        if value is not None:
            found[flag.field] = value
    if "model" not in found:
        raise ConfigError(
            "MODEL is missing: name a model directory or a Hugging Face id, as in `vllama worker ./model`."
        )
    if ("tls_certificate" in found) != ("tls_key" in found):
        raise ConfigError("--tls-cert and --tls-key need each other: give both or neither.")
    if "tls_authority" in found and "tls_certificate" not in found:
        raise ConfigError(
            "--tls-ca asks callers for a certificate and needs one itself: give --tls-cert and --tls-key."
        )
    _refuse_unreachable(found)
    _refuse_plain_text(found)
    return WorkerConfig(**found, cuda_visible_devices=environ.get("CUDA_VISIBLE_DEVICES"))


def _refuse_unreachable(found: Mapping[str, Any]) -> None:
    """Refuses a --join whose balancers cannot reach the worker."""
    if "joins" not in found:
        return
    if "join_token_file" not in found:
        raise ConfigError("--join needs the balancer's token: give --join-token-file.")
    listen = str(found.get("listen", DEFAULT_LISTEN))
    if listen.startswith("unix:"):
        raise ConfigError("--join needs a TCP address that the balancer can call: --listen 0.0.0.0:50061, for example.")
    here_only = values.is_loopback(listen) and "advertise" not in found
    if here_only and not all(values.is_loopback(balancer) for balancer in found["joins"]):
        raise ConfigError(f"--join: no other machine reaches {listen}; listen on 0.0.0.0:50061, or give --advertise.")


def _refuse_plain_text(found: Mapping[str, Any]) -> None:
    """Refuses to listen or to join beyond this machine without TLS, unless --insecure is given."""
    if "tls_certificate" in found or found.get("insecure"):
        return
    ways_out = "give --tls-cert, --tls-key and --tls-ca, or --insecure where every machine of the network is trusted."
    listen = str(found.get("listen", DEFAULT_LISTEN))
    if not listen.startswith("unix:") and not values.is_loopback(listen):
        raise ConfigError(f"--listen {listen} serves any caller, in plain text: {ways_out}")
    for balancer in found.get("joins", ()):
        if not values.is_loopback(balancer):
            raise ConfigError(f"--join {balancer} would get the token for joining in plain text: {ways_out}")


@dataclass(frozen=True, slots=True)
class _Flag:
    """One flag, its twin, and how their text becomes a field."""

    name: str
    field: str
    read: Callable[[str], object]
    help: str
    everyday: bool = False
    """True if the short help shows it, which fits a screen; `--help-all` shows the others as well."""
    repeatable: bool = False
    """True if it may be given several times; commas separate the values in its twin."""

    @property
    def twin(self) -> str:
        return "VLLAMA_" + self.name.lstrip("-").replace("-", "_").upper()

    def value(self, given: Any, environ: Mapping[str, str]) -> object | None:
        """Returns the flag's value, else its twin's; None when neither is set."""
        source = self.name
        if given is None:
            given, source = environ.get(self.twin) or None, self.twin
            if given is not None and self.repeatable:
                given = values.pairs(given) if self.read is values.pair else values.listed(given)
        if given is None:
            return None
        try:
            if self.repeatable:
                return _collected(self.read(item) for item in given)
            return self.read(given)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from None


def _collected(items: Iterable[object]) -> object:
    """Joins the values of a repeatable flag: pairs to a dict, the rest to a tuple."""
    found = tuple(items)
    if found and isinstance(found[0], tuple):
        return dict(found)  # type: ignore[arg-type]  # values.pair is the only reader that gives tuples
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[0].upper()}{message[1:]}; `vllama worker --help` lists the flags.")


class _HelpAll(argparse.Action):
    """Prints the help with all flags in it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        _parser(is_complete=True).print_help()
        parser.exit()


def _parser(*, is_complete: bool = False) -> argparse.ArgumentParser:
    """Returns the parser; its help shows every flag if `is_complete`, else the everyday ones."""
    parser = _Parser(
        prog="vllama worker",
        usage="vllama worker MODEL [FLAGS]",
        description="Hosts one model behind gRPC.",
        epilog=EXAMPLES,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=FLAGS_COLUMNS),
        allow_abbrev=False,
    )
    parser.add_argument("--help-all", action=_HelpAll, nargs=0, dest=argparse.SUPPRESS, help="show all flags")
    for flag in _FLAGS:
        is_shown = is_complete or flag.everyday
        options: dict[str, Any] = {"default": None, "help": flag.help if is_shown else argparse.SUPPRESS}
        if not flag.name.startswith("--"):
            parser.add_argument(flag.field, nargs="?", metavar=flag.name, **options)
        elif flag.read is values.boolean:
            parser.add_argument(flag.name, dest=flag.field, action="store_const", const="true", **options)
        else:
            action = "append" if flag.repeatable else "store"
            parser.add_argument(flag.name, dest=flag.field, action=action, metavar="VALUE", **options)
    return parser


_FLAGS = (
    _Flag("MODEL", "model", values.word, "a local directory or a Hugging Face id; any word with --engine fake",
          everyday=True),
    _Flag("--listen", "listen", values.address, "gRPC address: host:port or unix:/path (default 127.0.0.1:50061)",
          everyday=True),
    _Flag("--name", "name", values.word, "name of this worker in reports and logs (default worker-0)", everyday=True),
    _Flag("--served-name", "served_names", values.word,
          "name under which the model is served; repeatable, the first is shown (default MODEL)", repeatable=True),
    _Flag("--engine", "engine", values.one_of("vllm", "fake"),
          "vllm, or fake: a simulation without weights (default vllm)", everyday=True),
    _Flag("--device", "device", values.one_of("auto", "cuda", "cpu"), "auto, cuda or cpu (default auto)",
          everyday=True),
    _Flag("--max-streams", "max_streams", values.whole(1), "streams in the engine at once (default: the engine's own)",
          everyday=True),
    _Flag("--max-queue", "max_queue", values.whole(0), "requests that may wait beyond that (default 512)"),
    _Flag("--max-model-len", "max_model_len", values.whole(0),
          "context in tokens, 0 for the model's own (default 4096)", everyday=True),
    _Flag("--gpu-memory-utilization", "gpu_memory_utilization", values.share,
          "share of the device's memory to use (default 0.9)", everyday=True),
    _Flag("--deterministic", "deterministic", values.boolean, "greedy output that does not depend on the batch"),
    _Flag("--engine-arg", "engine_args", values.pair, "key=value for the engine; repeatable", repeatable=True),
    _Flag("--trust-client-templates", "trust_client_templates", values.boolean,
          "render chat templates that come with requests"),
    _Flag("--metrics", "metrics", values.tcp_address, "host:port for Prometheus (default: off)", everyday=True),
    _Flag("--insecure", "insecure", values.boolean, "allow plain text beyond this machine, in a trusted network"),
    _Flag("--tls-cert", "tls_certificate", values.file,
          "PEM certificate chain, for a TCP address (default: unencrypted)"),
    _Flag("--tls-key", "tls_key", values.file, "PEM private key of the certificate"),
    _Flag("--tls-ca", "tls_authority", values.file, "PEM authority whose certificates callers must show"),
    _Flag("--join", "joins", values.tcp_addresses, "gRPC addresses of balancers to join, with commas between",
          everyday=True),
    _Flag("--join-token-file", "join_token_file", values.file, "file with the balancer's token for joining",
          everyday=True),
    _Flag("--advertise", "advertise", values.tcp_address,
          "host:port where balancers reach this worker (default: where it listens)"),
    _Flag("--drain-timeout", "drain_timeout_seconds", values.seconds,
          "seconds that streams may take to end (default 30)"),
    _Flag("--stall-seconds", "stall_seconds", values.seconds,
          "an engine silent for so long is dead, 0: never (default 60)"),
    _Flag("--parent-fd", "parent_fd", values.whole(0), "socket or pipe from the supervisor; the worker ends with it"),
    _Flag("--log-format", "log_format", values.one_of("text", "json"), "text or json (default text)"),
)  # fmt: skip
