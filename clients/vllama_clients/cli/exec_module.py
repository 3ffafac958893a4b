"""Replaces this process with another module of the installation.

Replacing rather than starting means one process, one set of signals and one exit status: what
systemd, Docker or a terminal sends reaches the server itself.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence


def exec_module(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process with `python -m module arguments`."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
