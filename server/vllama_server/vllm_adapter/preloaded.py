"""The imports of the fork server: the modules of the engine's process, and nothing that starts a thread.

Imported nowhere else. It ends with the worker from its first moment on; the fork server itself checks for that only
after its imports.
"""

from __future__ import annotations

import importlib
import logging
import os

from setproctitle import setproctitle

from vllama_server.vllm_adapter import parent_watch
from vllama_server.vllm_adapter.gc_pause import gc_paused

MODULES = (
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
)

parent_watch.leave_interrupts_to_parent()
parent_watch.end_with_parent(os.getppid())
setproctitle("vllama::fork-server")  # before anything changes the environment, which lies behind the title
try:
    with gc_paused():  # objects that are never scanned are never written to, and stay shared with the fork
        for _module in MODULES:
            importlib.import_module(_module)
except Exception:
    # The engine's process raises the same error and reports it.
    logging.getLogger(__name__).debug("preloading ended early", exc_info=True)
