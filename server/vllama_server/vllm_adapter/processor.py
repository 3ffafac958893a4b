"""What the processor computes fast: decides the number format of a CPU worker."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def number_format(cpuinfo: str) -> str:
    """Chooses a dtype for vLLM from the text of /proc/cpuinfo: "auto", or "float32".

    oneDNN, which multiplies matrices for torch, has bfloat16 kernels for AVX-512 and above only;
    below that every product is emulated. Two workers with the embedded model and 20 streams on an
    AVX2 processor gave 13 tokens/s in bfloat16 and 55 to 59 in float32.
    """
    flags = next((line.split(":", 1)[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), None)
    # Other architectures name their features differently; there the checkpoint's own format stands.
    return "auto" if flags is None or "avx512f" in flags else "float32"


def read_number_format() -> str:
    """Chooses for this machine."""
    try:
        return number_format(CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return "auto"
