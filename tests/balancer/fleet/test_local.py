"""Local workers are started, restarted, given up and ended; no process is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.balancer.fleet.conftest import SETTINGS, gone
from vllama_balancer.fleet.events import Added, Changed, Deaths, ProcessState, Removed
from vllama_balancer.fleet.local import private_directory
from vllama_balancer.fleet.restart_policy import RestartSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVE = "print('up', flush=True)\nos.read(fd, 1)"
"""Script of a worker that runs until its parent has ended."""


def running(event) -> bool:
    return isinstance(event, Changed) and event.state is ProcessState.RUNNING


@contextlib.contextmanager
def descriptors_used_up() -> Iterator[None]:
    """Leaves this process no file descriptor to open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) // 2, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def failed(event) -> bool:
    return isinstance(event, Changed) and event.state is ProcessState.FAILED


async def test_a_worker_is_announced_and_then_runs(fleet_of) -> None:
    """First comes the worker with its address, then its process."""
    watched = fleet_of(SERVE)
    watched.add()
    event = await watched.until(running)
    added = watched.seen[0]
    assert isinstance(added, Added)
    assert (added.name, added.models, added.restarts) == ("worker-0", ("m:latest",), 0)
    assert added.address.startswith("unix:/") and added.address.endswith("worker-0.sock")
    assert psutil.pid_exists(event.pid)


async def test_lines_are_kept_with_the_name_of_their_worker(fleet_of) -> None:
    """The worker's output is passed on line by line, a rewritten line in its last form."""
    watched = fleet_of("sys.stdout.write('one\\r 50%\\r100%\\ntwo\\n')\n" + SERVE)
    watched.add(3)
    await watched.sink.printed("up")
    assert watched.sink.lines == [("worker-3", "100%"), ("worker-3", "two"), ("worker-3", "up")]


async def test_a_killed_worker_starts_again_at_the_same_address(fleet_of) -> None:
    """After SIGKILL a new process starts; the count of restarts grows."""
    watched = fleet_of(SERVE)
    watched.add()
    first = await watched.until(running)
    os.kill(first.pid, signal.SIGKILL)
    second = await watched.until(running)
    news = watched.seen[-2]
    assert news.state is ProcessState.RESTARTING
    assert "SIGKILL" in news.reason and news.retry_in_seconds == SETTINGS.initial_delay_seconds
    assert second.pid != first.pid and second.restarts == 1


async def test_children_of_a_dead_worker_are_killed(fleet_of) -> None:
    """A child that outlives its worker would hold the GPU: the whole group goes."""
    watched = fleet_of("child = subprocess.Popen(['sleep', '600'])\nprint('child', child.pid)\n" + SERVE)
    watched.add()
    first = await watched.until(running)
    await watched.sink.printed("up")
    child = int(watched.sink.lines[0][1].split()[1])
    os.kill(first.pid, signal.SIGKILL)
    await gone(child)


async def test_a_child_that_keeps_the_log_open_does_not_keep_the_worker_dead(fleet_of) -> None:
    """A child in a session of its own survives; the worker starts again all the same."""
    child = "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\nprint('child', child.pid)\n"
    watched = fleet_of(child + SERVE)
    watched.add()
    first = await watched.until(running)
    await watched.sink.printed("up")
    children = [int(watched.sink.lines[0][1].split()[1])]
    try:
        os.kill(first.pid, signal.SIGKILL)
        assert (await watched.until(running)).restarts == 1
        assert psutil.pid_exists(children[0])
        watched.sink.lines.clear()
        await watched.sink.printed("up")
        children.append(int(watched.sink.lines[0][1].split()[1]))
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


async def test_a_log_that_cannot_be_written_does_not_stop_the_worker(fleet_of) -> None:
    """On a full disk its lines are lost, but read: else it would block in the middle of a line."""
    watched = fleet_of("for number in range(20000): print('line', number)\nos._exit(3)", RestartSettings(0.01, 0.02))
    watched.sink.error = OSError(errno.ENOSPC, "No space left on device")
    watched.add()
    event = await watched.until(failed, 60)
    assert event.reason == "died 5 times before it was ready: it ended with status 3"


async def test_a_crash_loop_ends_as_failed_with_the_cause(fleet_of) -> None:
    """A worker that keeps crashing early is given up; its last message is the reason."""
    watched = fleet_of("print('RuntimeError: the tensor is on fire')\nos._exit(3)")
    watched.add()
    event = await watched.until(failed)
    assert event.reason == "died 5 times before it was ready: RuntimeError: the tensor is on fire"
    assert event.restarts == 4 and event.pid == 0


async def test_a_worker_that_has_been_ready_is_never_given_up(fleet_of) -> None:
    """However often it dies: a request may be the cause. Its events say how often, and why the last time."""
    watched = fleet_of("os.write(fd, b'1')\nprint('RuntimeError: the tensor is on fire')\nos._exit(3)")
    watched.add()
    for count in range(1, 9):
        event = await watched.until(lambda event: isinstance(event, Changed))
        while event.state is ProcessState.RUNNING:
            event = await watched.until(lambda event: isinstance(event, Changed))
        assert event.state is ProcessState.RESTARTING
        assert event.deaths == Deaths(count, "RuntimeError: the tensor is on fire")
    event = await watched.until(running)
    assert event.deaths.count == 8


async def test_a_machine_without_descriptors_is_waited_for(fleet_of) -> None:
    """A process that cannot be made for lack of descriptors is tried again until it can."""
    watched = fleet_of(SERVE, RestartSettings(0.01, 0.02, max_failed_starts=1))
    with descriptors_used_up():
        watched.add()
        for _ in range(3):
            event = await watched.until(lambda event: isinstance(event, Changed))
            assert event.state is ProcessState.RESTARTING
            assert "Too many open files" in event.reason
    await watched.until(running)


async def test_a_start_that_cannot_succeed_is_given_up_sooner(fleet_of) -> None:
    """Three failed starts are enough."""
    watched = fleet_of("print('vllama worker: no memory; use --max-model-len 2048')\nos._exit(1)")
    watched.add()
    event = await watched.until(failed)
    assert event.reason == "failed to start 3 times: no memory; use --max-model-len 2048"


async def test_an_unforeseen_exception_is_not_the_end_of_a_worker(fleet_of) -> None:
    """It is logged, and the start is tried again."""
    watched = fleet_of(SERVE)
    watched.errors += [RuntimeError("can't start new thread")] * 3
    watched.add()
    event = await watched.until(lambda event: isinstance(event, Changed))
    assert event.state is ProcessState.RESTARTING and "can't start new thread" in event.reason
    await watched.until(running)


async def test_wrong_flags_are_not_tried_again(fleet_of) -> None:
    """Exit status 2 will not get better."""
    watched = fleet_of("print('vllama worker: --max-streams must be 1 or more')\nos._exit(2)")
    watched.add()
    event = await watched.until(failed)
    assert event.reason == "refused its flags: --max-streams must be 1 or more"
    assert event.restarts == 0


async def test_pauses_double(fleet_of) -> None:
    """The pause before a new start doubles up to its limit."""
    watched = fleet_of("os._exit(3)", RestartSettings(0.01, 0.03))
    watched.add()
    await watched.until(failed)
    delays = [event.retry_in_seconds for event in watched.seen if getattr(event, "retry_in_seconds", None)]
    assert delays == [0.01, 0.02, 0.03, 0.03, SETTINGS.revive_seconds]


async def test_a_given_up_worker_can_be_restarted(fleet_of, tmp_path: Path) -> None:
    """Once the cause is fixed, a requested restart starts the worker with a clean slate."""
    fixed = tmp_path / "fixed"
    watched = fleet_of(f"os.path.exists({str(fixed)!r}) or os._exit(2)\n" + SERVE)
    watched.add()
    await watched.until(failed)
    fixed.touch()
    await watched.fleet.restart("worker-0")
    await watched.sink.printed("up")


async def test_restart_replaces_a_running_process(fleet_of) -> None:
    """A requested restart ends the old process by SIGTERM and is not counted as a crash."""
    watched = fleet_of("signal.signal(signal.SIGTERM, lambda *_: (print('drained'), os._exit(0)))\n" + SERVE)
    watched.add()
    first = await watched.until(running)
    await watched.sink.printed("up")
    await watched.fleet.restart("worker-0")
    second = await watched.until(running)
    assert ("worker-0", "drained") in watched.sink.lines
    assert not psutil.pid_exists(first.pid) and second.pid != first.pid


async def test_retire_drains_and_removes(fleet_of) -> None:
    """A retired worker gets SIGTERM, drains, and is not started again."""
    watched = fleet_of("signal.signal(signal.SIGTERM, lambda *_: (print('drained'), os._exit(0)))\n" + SERVE)
    watched.add()
    event = await watched.until(running)
    await watched.sink.printed("up")
    await watched.fleet.retire("worker-0")
    await watched.until(lambda event: isinstance(event, Removed))
    assert ("worker-0", "drained") in watched.sink.lines
    assert not psutil.pid_exists(event.pid) and not watched.fleet.owns("worker-0")


async def test_a_worker_that_ignores_the_end_is_killed(fleet_of) -> None:
    """After the drain's time and a grace, SIGKILL ends what SIGTERM did not."""
    watched = fleet_of("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVE)
    watched.add()
    event = await watched.until(running)
    await watched.sink.printed("up")
    await watched.fleet.close(-4.9)
    assert not psutil.pid_exists(event.pid)


async def test_close_ends_many_at_once_and_clears_the_directory(fleet_of, tmp_path: Path) -> None:
    """All workers leave together, and so does the directory of sockets."""
    watched = fleet_of(SERVE)
    for index in range(4):
        watched.add(index)
    pids = [(await watched.until(running)).pid for _ in range(4)]
    await watched.fleet.close(1.0)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert list(tmp_path.glob("vllama-*")) == []  # noqa: ASYNC240


def test_sockets_lie_in_a_private_directory(tmp_path: Path) -> None:
    """Other users cannot enter the directory of sockets."""
    directory = private_directory(tmp_path)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_directories_of_dead_processes_are_cleared(tmp_path: Path) -> None:
    """The directory of a killed balancer is deleted, that of a running one stays."""
    dead, running = tmp_path / "vllama-999999999-x", tmp_path / f"vllama-{os.getppid()}-x"
    dead.mkdir()
    running.mkdir()
    mine = private_directory(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([running, mine])


async def test_two_workers_of_one_name_are_refused(fleet_of) -> None:
    """A name is one worker."""
    watched = fleet_of(SERVE)
    watched.add()
    try:
        watched.add()
    except ValueError as error:
        assert "worker-0" in str(error)
    else:
        raise AssertionError("a second worker-0 was started")


async def test_retiring_twice_is_no_error(fleet_of) -> None:
    """The second call returns at once."""
    watched = fleet_of(SERVE)
    watched.add()
    await watched.until(running)
    await watched.fleet.retire("worker-0")
    await watched.fleet.retire("worker-0")


async def test_close_ends_a_worker_that_was_being_retired(fleet_of) -> None:
    """If a retirement is cancelled during its drain, `close` ends the process."""
    watched = fleet_of("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVE)
    watched.add()
    event = await watched.until(running)
    await watched.sink.printed("up")
    retiring = asyncio.create_task(watched.fleet.retire("worker-0"))
    await watched.until(lambda event: isinstance(event, Changed) and event.state is ProcessState.STOPPED)
    retiring.cancel()
    await watched.fleet.close(-4.9)
    assert not psutil.pid_exists(event.pid)
