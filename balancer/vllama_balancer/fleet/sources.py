"""Builds the fleet sources that the flags ask for: local, Ray, given addresses, DNS names."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vllama_balancer.errors import ConfigError
from vllama_balancer.fleet.local import LocalFleet
from vllama_balancer.fleet.on_ray.fleet import RayFleet, driver_command, launcher
from vllama_balancer.fleet.process import Launcher, worker_environment
from vllama_balancer.fleet.remote import DNS_SCHEME, DnsFleet, StaticFleet
from vllama_balancer.fleet.restart_policy import RestartSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllama_balancer.config import BalancerConfig
    from vllama_balancer.fleet.events import FleetSource
    from vllama_balancer.fleet.process import LogSink


def remote_sources(addresses: Sequence[str]) -> list[FleetSource]:
    """Returns one source for the plain addresses, and one for each DNS name."""
    plain = [address for address in addresses if not address.startswith(DNS_SCHEME)]
    named = [DnsFleet(address) for address in addresses if address.startswith(DNS_SCHEME)]
    return [StaticFleet(plain), *named]


def local_fleet(config: BalancerConfig, environment: Mapping[str, str], sink: LogSink) -> LocalFleet:
    """Returns an empty fleet of local processes."""
    return LocalFleet(
        Launcher(sink, worker_environment(environment)),
        RestartSettings(),
        drain_seconds=config.drain_timeout_seconds,
        runtime_directory=Path(environment.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()),
    )


def ray_fleet(config: BalancerConfig, environment: Mapping[str, str], sink: LogSink) -> RayFleet:
    """Returns an empty fleet on a Ray cluster. Raises ConfigError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--fleet ray needs Ray, which is not installed here: pip install 'ray>=2.50' beside vllama")
    command = driver_command(
        address=config.ray_address,
        device=config.device,
        tensor_parallel=config.tensor_parallel,
        log_format=config.log_format,
        log_level=config.log_level,
    )
    launch = launcher(command, worker_environment(environment), sink)
    return RayFleet(launch, drain_seconds=config.drain_timeout_seconds)
