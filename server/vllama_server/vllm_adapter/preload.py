"""Preloading: a process that imports vLLM while the worker does, and from which the engine's process is forked.

The import of vLLM takes most of a start, and by default it happens twice, one after the other: in the worker, and
then in the process that vLLM spawns once the worker has read the configuration. Here the second import begins
together with the first, on another core.

Forking is safe here and would not be in the worker: the process that forks runs one thread, has no gRPC and has
touched no device. It is Python's own fork server with a module to import. On a GPU the engine's process is spawned:
drivers do not support forks of a process that may have touched them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import contextmanager, suppress
from importlib import metadata
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama_server.vllm_adapter.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vllama_server.vllm_adapter.engine_config import EngineConfig

PRELOADED = "vllama_server.vllm_adapter.preloaded"
_OTHER_LAYOUTS = frozenset({"distributed_executor_backend", "tensor_parallel_size", "pipeline_parallel_size"})
"""Engine arguments for more than one computing process."""
_OPENMP = ("libgomp", "libiomp", "libomp")


class Preloader:
    """The preloading process of one engine; engines that overlap in one worker share it."""

    def __init__(self) -> None:
        self._files: Workspace | None = None

    def begin(self, engine_config: EngineConfig, environ: Mapping[str, str]) -> bool:
        """Starts the process if that helps, and returns whether it did. Call it on a thread that outlives the process.

        `environ` is the engine's environment.
        """
        settings = computing_environment(engine_config, environ)
        if settings is None:
            return False
        multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOADED])
        self._files = Workspace()
        with _environment(settings), _temporary_files(self._files.path):
            forkserver.ensure_running()
        return True

    def end(self) -> None:
        """Kills the process, unless one that was forked from it still runs: its end is reported through this one."""
        server: Any = forkserver._forkserver  # its public side can only start it
        if server._forkserver_pid is not None and not multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(server._forkserver_pid, signal.SIGKILL)
            server._stop()
        if self._files is not None and server._forkserver_pid is None:
            self._files.close()


def computing_environment(engine_config: EngineConfig, environ: Mapping[str, str]) -> dict[str, str] | None:
    """Returns the environment of a computing process; None where preloading does not apply.

    OpenMP reads it when the process begins and torch when it is imported, each once. Both are before vLLM derives the
    same values.
    """
    if not _is_for_cpu() or _OTHER_LAYOUTS & engine_config.engine_args.keys():
        return None
    cores = listed_cores(environ.get("VLLM_CPU_OMP_THREADS_BIND", ""))
    preloads = environ.get("LD_PRELOAD", "")
    library = _openmp_library()
    if not cores or library is None or any(name in preloads for name in _OPENMP):
        return None
    return {
        "LD_PRELOAD": f"{preloads}:{library}" if preloads else str(library),
        "OMP_NUM_THREADS": str(len(cores)),
        "GOMP_CPU_AFFINITY": " ".join(str(core) for core in cores),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1",
    }


def listed_cores(binding: str) -> list[int]:
    """Returns the cores of a list, "0,2-3"; empty for vLLM's other forms of a binding."""
    cores: list[int] = []
    for part in binding.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            return []
        cores.extend(range(int(first), int(last or first) + 1))
    return cores


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for processes that start inside the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _temporary_files(directory: Path) -> Iterator[None]:
    """Makes multiprocessing put its socket into this directory, which the next start removes after a SIGKILL."""
    # There is no public setting for it.
    config: dict[str, object] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before = config.get("tempdir")
    config["tempdir"] = str(directory)
    try:
        yield
    finally:
        config["tempdir"] = before


def _is_for_cpu() -> bool:
    """Returns whether the installed vLLM is the one for CPUs, without importing it."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return "cpu" in f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return False


def _openmp_library() -> Path | None:
    """Returns torch's OpenMP library, which has to be loaded before anything else."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    package = Path(torch.origin).parent
    for directory in (package.parent / "torch.libs", package / "lib"):
        for library in sorted(directory.glob("libgomp*.so*")):
            return library
    return None
