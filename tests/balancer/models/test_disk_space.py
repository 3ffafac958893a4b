"""Downloads and conversions that do not fit are refused with the numbers and a fix."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vllama_balancer.models.disk_space import (
    FakeSpace,
    MachineSpace,
    check_conversion_fits,
    check_download_fits,
    is_disk_full,
)
from vllama_balancer.models.errors import DoesNotFit

GIB = 1 << 30
STORE = Path("/store/weights")


def test_what_fits_is_accepted() -> None:
    """With enough memory and disk space nothing is raised."""
    check_conversion_fits(GIB, STORE, FakeSpace(memory=4 * GIB, disk=GIB))
    check_download_fits(GIB, STORE, FakeSpace(memory=0, disk=GIB))


def test_a_conversion_that_needs_more_memory_says_how_much() -> None:
    """The message has both numbers and a fix."""
    with pytest.raises(DoesNotFit, match=r"needs 15\.6 GiB of memory and 8\.0 GiB are free; .* safetensors"):
        check_conversion_fits(int(6.825 * GIB), STORE, FakeSpace(memory=8 * GIB, disk=99 * GIB))


@pytest.mark.parametrize("check", [check_conversion_fits, check_download_fits])
def test_a_disk_that_is_too_small_says_how_much(check) -> None:
    """The message has the directory too, and the flag that chooses another."""
    with pytest.raises(DoesNotFit, match=r"needs 2\.0 GiB in /store/weights and 1\.5 GiB are free; .* --models"):
        check(2 * GIB, STORE, FakeSpace(memory=99 * GIB, disk=3 * GIB // 2))


def test_a_full_disk_is_recognised() -> None:
    """By the message of the system, and by that of a library."""
    assert is_disk_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))


def test_the_machine_has_memory_and_disk(tmp_path: Path) -> None:
    """Both are positive numbers of bytes."""
    assert MachineSpace().memory_bytes() > 1 << 20
    assert MachineSpace().disk_bytes(tmp_path) > 0
