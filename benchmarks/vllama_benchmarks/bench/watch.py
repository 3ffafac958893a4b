"""The cost of a process while it is measured: CPU time and memory."""

from __future__ import annotations

import psutil


class Watch:
    """Measures one process, with its children unless `alone`."""

    def __init__(self, pid: int, *, alone: bool = True) -> None:
        """Raises ValueError when there is no such process."""
        try:
            self._process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            raise ValueError(f"there is no process {pid}") from None
        self._alone = alone

    def cpu_seconds(self) -> float:
        """Returns the CPU time used so far; 0 once the process has gone."""
        try:
            processes = [self._process] if self._alone else [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0.0
        return sum(_cpu_seconds(process) for process in processes)

    def resident_bytes(self) -> int:
        """Returns the memory that the process itself holds; 0 once it has gone."""
        try:
            return int(self._process.memory_info().rss)
        except psutil.NoSuchProcess:
            return 0


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
