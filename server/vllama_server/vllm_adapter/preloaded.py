"""What the fork server imports: the modules that the engine's process needs, and nothing that starts a thread.

Imported nowhere else. Ends with the worker from its first moment on; the fork server itself looks
for that only when it has imported everything.
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
    with gc_paused():  # what is never collected is never written to, either, and stays shared with the fork
        for _module in MODULES:
            importlib.import_module(_module)
except Exception:
    # The engine's process meets the same error, and reports it; here nobody would read it.
    logging.getLogger(__name__).debug("preloading ended early", exc_info=True)
