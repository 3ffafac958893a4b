"""The worker's main function: wires flags, engine and server.

Nothing heavy is imported until the engine has been chosen: vLLM starts its own processes, and the simulated engine
needs no vLLM at all.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import gc
import logging
import os
import sys
from typing import TYPE_CHECKING

import prometheus_client
import uvloop

from vllama_server import config as configuration
from vllama_server import join, logs, supervisor_watch
from vllama_server.errors import ConfigError, StartFailed
from vllama_server.identity import WorkerIdentity
from vllama_server.metrics import WorkerMetrics, metrics_server
from vllama_server.open_files import raise_open_files
from vllama_server.process_exit import limit_exit
from vllama_server.serving import ExitStatus, WorkerServer
from vllama_server.signals import StopRequests
from vllama_server.tls import tls_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_server.config import WorkerConfig
    from vllama_server.engine.protocol import Engine

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a worker until it is stopped; returns the exit status of the process."""
    try:
        config = configuration.parse(sys.argv[1:] if argv is None else argv, os.environ)
        logs.set_up(config.log_format, config.name)
        # Engines compute in native code: without this a crash in it leaves no trace.
        faulthandler.enable()
        raise_open_files()
        _watch_supervisor(config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            status = runner.run(_serve(config))
            limit_exit(status)
            return status
    except ConfigError as error:
        print(f"vllama worker: {error}", file=sys.stderr)
        return ExitStatus.BAD_FLAGS
    except StartFailed as error:
        print(f"vllama worker: {error}", file=sys.stderr)
        return ExitStatus.START_FAILED


async def _serve(config: WorkerConfig) -> int:
    stops = StopRequests()
    stops.listen(asyncio.get_running_loop())
    # vLLM puts its own metrics into the process's registry: one endpoint shows both.
    metrics = WorkerMetrics(prometheus_client.REGISTRY)
    identity = WorkerIdentity(config.name, config.names)
    token = join.read_token(config.join_token_file)
    server = WorkerServer(config, _build_engine(config), identity, metrics, stops)
    server.bind()
    # What has been imported lives as long as the process: no collection need stop every stream to look at it.
    gc.collect()
    gc.freeze()
    files = tls_files(config)
    join_client = join.JoinClient(
        config.joins,
        identity,
        functools.partial(join.advertised, config.advertise, server.address),
        token,
        files.channel_credentials if files is not None else None,
    )
    with metrics_server(config.metrics, prometheus_client.REGISTRY):
        async with join_client.running():
            return await server.run()


def _build_engine(config: WorkerConfig) -> Engine:
    """Builds the chosen engine without starting it. Raises StartFailed, ConfigError."""
    if config.engine == "fake":
        from vllama_server.fake_engine.engine import FakeEngine

        return FakeEngine.from_config(config)
    from vllama_server.vllm_adapter.engine import VllmEngine

    _advise_on_memory(config)
    return VllmEngine.from_config(config)


def _advise_on_memory(config: WorkerConfig) -> None:
    """Logs whether the model fits its GPUs, before minutes of loading."""
    if config.device == "cpu":
        return
    import pynvml

    from vllama_server.memory.check import check
    from vllama_server.memory.devices import visible_devices

    for assessment in check(config, visible_devices(pynvml, config.cuda_visible_devices)):
        logger.log(logging.INFO if assessment.fits else logging.WARNING, "memory: %s", assessment.message)


def _watch_supervisor(config: WorkerConfig) -> None:
    if config.parent_fd is None:
        return
    try:
        supervisor_watch.watch_supervisor(config.parent_fd, supervisor_watch.end_at_once)
    except OSError:
        raise ConfigError(f"--parent-fd: {config.parent_fd} is no open descriptor; leave the flag out.") from None
