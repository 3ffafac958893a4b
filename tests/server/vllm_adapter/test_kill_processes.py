"""Killing an engine's processes spares all others."""

from __future__ import annotations

import multiprocessing
import time

from vllama_server.vllm_adapter.engine import EngineProcesses


def test_only_processes_of_this_engine_are_killed() -> None:
    """Two engines may live in one process, and one of them may fail."""
    spawn = multiprocessing.get_context("spawn")
    before = spawn.Process(target=time.sleep, args=(60,), daemon=True)
    before.start()
    processes = EngineProcesses()
    own = spawn.Process(target=time.sleep, args=(60,), daemon=True)
    own.start()
    try:
        processes.kill()
        own.join(30)
        assert own.exitcode == -9
        assert before.is_alive()
    finally:
        before.kill()
        before.join(30)
