"""Checks that a download or conversion fits into memory and onto the disk, before it begins."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from vllama_balancer.models.errors import DoesNotFit

MEMORY_FACTOR = 2.2
"""Peak memory of a conversion over the bytes of its result: the dequantized tensors and the model they go into."""
MEMORY_BASE_BYTES = 600 << 20
"""Memory of the converting libraries."""
FULL = ("No space left on device", "os error 28")
"""Messages of the operating system, and of libraries that quote it, for a full disk."""


class FreeSpace(Protocol):
    """Free memory and disk space of a machine."""

    def memory_bytes(self) -> int:
        """Memory that a process could have now."""
        ...

    def disk_bytes(self, directory: Path) -> int:
        """Space on the disk of a directory."""
        ...


class MachineSpace:
    """Free memory and disk space of this machine."""

    def memory_bytes(self) -> int:
        """Memory that is free or can be freed without swapping."""
        return int(psutil.virtual_memory().available)

    def disk_bytes(self, directory: Path) -> int:
        """Space that this user may fill."""
        return shutil.disk_usage(directory).free


@dataclass(frozen=True, slots=True)
class FakeSpace:
    """The machine that a test describes."""

    memory: int
    disk: int

    def memory_bytes(self) -> int:
        return self.memory

    def disk_bytes(self, directory: Path) -> int:
        return self.disk


def check_conversion_fits(result_bytes: int, directory: Path, free: FreeSpace) -> None:
    """Raises DoesNotFit if a conversion to so many bytes needs more memory or disk space than is free."""
    needed, available = int(result_bytes * MEMORY_FACTOR) + MEMORY_BASE_BYTES, free.memory_bytes()
    if needed > available:
        raise DoesNotFit(
            f"the conversion needs {gib(needed)} GiB of memory and {gib(available)} GiB are free; "
            "free some, or use a safetensors version of the model"
        )
    _check_disk("the converted model", result_bytes, directory, free)


def check_download_fits(needed_bytes: int, directory: Path, free: FreeSpace) -> None:
    """Raises DoesNotFit if the disk has less free space."""
    _check_disk("the download", needed_bytes, directory, free)


def check_quota(needed_bytes: int, directory: Path, quota_bytes: int | None) -> None:
    """Raises DoesNotFit if a directory would hold more than its quota; None: there is none."""
    if quota_bytes is None:
        return
    used_bytes = _used_bytes(directory)
    if used_bytes + needed_bytes > quota_bytes:
        raise DoesNotFit(
            f"the model needs {gib(needed_bytes)} GiB, and {gib(used_bytes)} of the {gib(quota_bytes)} GiB that pulls "
            "may fill are in use; delete models, or raise --pull-quota"
        )


def _used_bytes(directory: Path) -> int:
    """Returns the bytes of all files below a directory; other processes may move them meanwhile."""
    used = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            with contextlib.suppress(OSError):
                used += (Path(folder) / file).lstat().st_size
    return used


def is_disk_full(error: BaseException) -> bool:
    """Returns True if an error of any library means that the disk is full."""
    return any(words in str(error) for words in FULL)


def gib(count: int) -> str:
    """Returns bytes in GiB, for messages."""
    return f"{count / (1 << 30):.1f}"


def _check_disk(what: str, needed_bytes: int, directory: Path, free: FreeSpace) -> None:
    available = free.disk_bytes(directory)
    if needed_bytes > available:
        raise DoesNotFit(
            f"{what} needs {gib(needed_bytes)} GiB in {directory} and {gib(available)} GiB are free; "
            "free some, or choose another disk with --models"
        )
