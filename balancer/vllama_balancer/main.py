"""The entry point of the balancer: configuration, log, signals and event loop, then the Balancer."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from vllama_balancer import config as configuration
from vllama_balancer import logs
from vllama_balancer.app import Balancer
from vllama_balancer.errors import BalancerError, ConfigError, NoWorker
from vllama_balancer.signals import StopRequests
from vllama_balancer.startup.open_files import raise_open_files

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_STOPPED = 0
EXIT_START_FAILED = 1
EXIT_BAD_FLAGS = 2

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the balancer until a stop request; returns the exit status of the process."""
    try:
        config = configuration.parse(sys.argv[1:] if argv is None else argv, os.environ, home=Path.home())
    except ConfigError as error:
        print(f"vllama serve: {error}", file=sys.stderr)
        return EXIT_BAD_FLAGS
    logs.set_up(config.log_format, config.log_level)
    for warning in config.warnings:
        logger.warning("%s", warning)
    raise_open_files()
    # Imported modules live as long as the process: frozen, they lengthen no garbage collection.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(config))
    except BalancerError as error:
        print(f"vllama serve: {error}", file=sys.stderr)
        return EXIT_START_FAILED
    return EXIT_STOPPED


async def _run(config: configuration.BalancerConfig) -> None:
    stops = StopRequests()
    stops.listen(asyncio.get_running_loop())
    directory = logs.worker_log_directory(os.environ, Path.home(), config.port)
    sink = logs.WorkerLog(logs.StandardError(), config.log_format, config.log_level, directory)
    try:
        await Balancer(config, os.environ, stops, sink, sys.stdout, sys.stderr).run()
    except NoWorker as error:
        raise NoWorker(f"{error} (all that the workers printed is in {directory})") from error
    finally:
        sink.close()
