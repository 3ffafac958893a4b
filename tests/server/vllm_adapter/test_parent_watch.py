"""Processes of an engine end with the worker and have its environment, also forked ones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path

FAMILY = """
import json, multiprocessing, os, sys, time

from vllama_server.vllm_adapter import parent_watch

def child(method, ready):
    ready.put((method, os.getpid(), os.getppid(), os.environ.get("LATER")))
    time.sleep(60)

if __name__ == "__main__":
    parent_watch.hand_down()
    started = []
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        ready = context.Queue()
        if method == "forkserver":
            context.Process(target=print, daemon=True).start()  # the server begins with the older environment
            os.environ["LATER"] = "known"
        context.Process(target=child, args=(method, ready), daemon=True).start()
        started.append(ready.get(timeout=30))
    print(json.dumps(started), flush=True)
    time.sleep(60)
"""


def test_processes_of_both_kinds_end_with_their_worker_and_have_its_environment(tmp_path: Path) -> None:
    """A fork server stands between the worker and one of them, and ends as well."""
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        lines = iter(worker.stdout.readline, "")
        started = json.loads(next(line for line in lines if line.startswith("[")))
        (_, spawned, parent, _), (_, forked, server, later) = started
        assert parent == worker.pid != server
        assert later == "known"
        family = [psutil.Process(process_id) for process_id in (spawned, forked, server)]
        worker.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, 3)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
