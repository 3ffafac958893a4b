"""The attacked fleet: two simulated workers behind a watched balancer that asks for keys, and what it cost them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from tests.end_to_end.fleet_process import FleetProcess

if TYPE_CHECKING:
    import psutil

MODEL = "demo:1b"
WORKERS = 2
INNOCENT, ATTACKER, OPERATOR = "innocent-key", "attacker-key", "operator-key"
"""Keys; the first two may infer, the third may do everything."""
MIB = 2**20


def key_lines() -> str:
    """Returns the key file."""
    everything = " scope=infer,models,fleet,metrics"
    return "".join(
        f"{name}:{hashlib.sha256(key.encode()).hexdigest()}{scope}\n"
        for name, key, scope in (
            ("innocent", INNOCENT, ""),
            ("attacker", ATTACKER, ""),
            ("operator", OPERATOR, everything),
        )
    )


class AttackedFleet:
    """Starts the fleet, and measures it from outside."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        (folder / "keys").write_text(key_lines())
        self._beats = folder / "beats"
        self._beats.touch()
        usual = [MODEL, "--workers", str(WORKERS), "--engine", "fake", "--models", str(folder / "models")]
        usual += ["--api-key-file", str(folder / "keys"), *arguments]
        module = ("tests.attacks.watched_balancer", str(self._beats))
        metadata = (("authorization", f"Bearer {OPERATOR}"),)
        self.process = FleetProcess(usual, folder / "log", module=module, metadata=metadata)

    def start(self) -> None:
        """Returns when both workers serve."""
        self.process.start()
        self.process.wait_ready(WORKERS, 60)

    def stop(self) -> None:
        """Ends it."""
        self.process.stop()

    @property
    def url(self) -> str:
        """Where the HTTP edge listens."""
        return self.process.url

    def log(self) -> str:
        """Returns all that the balancer logged."""
        return self.process.log.read_text(errors="replace")

    def reset_peaks(self) -> None:
        """Forgets the peaks of memory and of the loop's callbacks so far."""
        self._beats.write_text("")
        for member in self.process.family():
            # 5 resets the peak of the resident set, VmHWM (proc(5)).
            Path(f"/proc/{member.pid}/clear_refs").write_text("5")

    def longest_callback_seconds(self) -> float:
        """Returns the longest processor time between two heartbeats of the balancer's loop since the reset."""
        return max((float(line) for line in self._beats.read_text().split()), default=0.0)

    def peak_bytes(self) -> tuple[int, int]:
        """Returns the peaks of the balancer and of its largest worker since the reset."""
        balancer, *others = (_peak(member) for member in self.process.family())
        return balancer, max(others, default=0)


def _peak(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
