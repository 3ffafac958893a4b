"""An engine's directory goes with the engine, or with the next start when the engine was killed."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

from vllama_server.vllm_adapter.workspace import LOCK, PREFIX, Workspace, sweep

HOLDER = """
import sys
from pathlib import Path
from vllama_server.vllm_adapter.workspace import Workspace
print(Workspace(Path(sys.argv[1])).path, flush=True)
sys.stdin.read()
"""


def test_only_this_user_may_enter(tmp_path: Path) -> None:
    """Its sockets take commands from any process that can open them."""
    workspace = Workspace(tmp_path)
    assert stat.S_IMODE(workspace.path.stat().st_mode) == 0o700
    workspace.close()


def test_it_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    """Also when closed again."""
    workspace = Workspace(tmp_path)
    (workspace.path / "left").write_text("x")
    workspace.close()
    workspace.close()
    assert list(tmp_path.iterdir()) == []


def test_one_in_use_is_left_alone(tmp_path: Path) -> None:
    """Several engines of one machine start at any time."""
    first, second = Workspace(tmp_path), Workspace(tmp_path)
    sweep(tmp_path)
    assert first.path.exists()
    assert second.path.exists()
    first.close()
    second.close()


def test_the_next_start_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """SIGKILL leaves no time to tidy up; the lock goes all the same."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        orphan = Path(holder.stdout.readline().strip())
        sweep(tmp_path)
        assert orphan.exists()
        holder.send_signal(signal.SIGKILL)
    assert orphan.exists()
    Workspace(tmp_path).close()
    assert not orphan.exists()


def test_what_is_no_engines_directory_stays(tmp_path: Path) -> None:
    """Without a lock inside it is foreign, or belongs to a start that has just begun."""
    (tmp_path / f"{PREFIX}fresh").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK).touch()
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
