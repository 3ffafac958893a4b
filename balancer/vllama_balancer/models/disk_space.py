"""Refuses, with the numbers, what would not fit into memory or onto the disk, before any work is done."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import psutil

from vllama_balancer.models.errors import DoesNotFit

if TYPE_CHECKING:
    from pathlib import Path

MEMORY_FACTOR = 2.2
"""Peak of a conversion over the bytes of its result: the dequantized tensors and the model that takes them."""
MEMORY_BASE_BYTES = 600 << 20
"""Memory of the libraries that convert."""
FULL = ("No space left on device", "os error 28")
"""How the operating system, and libraries that quote it, say that the disk is full."""


class FreeSpace(Protocol):
    """What is free on a machine."""

    def memory_bytes(self) -> int:
        """Memory that a process could have now."""
        ...

    def disk_bytes(self, directory: Path) -> int:
        """Space on the disk of a directory."""
        ...


class MachineSpace:
    """Asks the operating system."""

    def memory_bytes(self) -> int:
        """Memory that is free or can be freed without swapping."""
        return int(psutil.virtual_memory().available)

    def disk_bytes(self, directory: Path) -> int:
        """Space that this user may fill."""
        return shutil.disk_usage(directory).free


@dataclass(frozen=True, slots=True)
class FakeSpace:
    """A machine that a test describes."""

    memory: int
    disk: int

    def memory_bytes(self) -> int:
        """What the test said."""
        return self.memory

    def disk_bytes(self, directory: Path) -> int:
        """What the test said."""
        return self.disk


def check_conversion_fits(result_bytes: int, directory: Path, room: FreeSpace) -> None:
    """Raises DoesNotFit when converting weights to so many bytes needs more than there is."""
    needed, available = int(result_bytes * MEMORY_FACTOR) + MEMORY_BASE_BYTES, room.memory_bytes()
    if needed > available:
        raise DoesNotFit(
            f"the conversion needs {gib(needed)} GiB of memory and {gib(available)} GiB are free; "
            "free some, or use a safetensors version of the model"
        )
    _refuse_disk("the converted model", result_bytes, directory, room)


def check_download_fits(needed_bytes: int, directory: Path, room: FreeSpace) -> None:
    """Raises DoesNotFit when the disk cannot take so many more bytes."""
    _refuse_disk("the download", needed_bytes, directory, room)


def is_disk_full(error: BaseException) -> bool:
    """Tells whether an error of any library means that the disk is full."""
    return any(words in str(error) for words in FULL)


def gib(count: int) -> str:
    """Writes bytes as GiB for people."""
    return f"{count / (1 << 30):.1f}"


def _refuse_disk(what: str, needed_bytes: int, directory: Path, room: FreeSpace) -> None:
    free = room.disk_bytes(directory)
    if needed_bytes > free:
        raise DoesNotFit(
            f"{what} needs {gib(needed_bytes)} GiB in {directory} and {gib(free)} GiB are free; "
            "free some, or choose another disk with --models"
        )
