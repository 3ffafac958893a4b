"""The flags of the processes, from their own help."""

from __future__ import annotations

import functools
import re
import subprocess
import sys

PROCESS_OF = {"serve": "vllama_balancer", "worker": "vllama_server"}
"""The module behind each command of `vllama` that is a process of its own."""


@functools.cache
def flags_of(module: str) -> frozenset[str]:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help-all"], capture_output=True, text=True, timeout=100, check=True
    )
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z-]+", done.stdout))


def unknown_flags(command: str, words: list[str]) -> list[str]:
    """Returns the flags among `words` that `vllama COMMAND` does not take."""
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [flag for flag in given if flag not in flags_of(PROCESS_OF[command])]
