"""A worker ends with its supervisor."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from vllama_server.supervisor_watch import watch_supervisor


def test_the_end_of_the_pipe_is_noticed():
    """Bytes are no end; the closed pipe is."""
    read, write = os.pipe()
    gone = threading.Event()
    thread = watch_supervisor(read, gone.set)
    os.write(write, b"x")
    assert not gone.wait(0.05)
    os.close(write)
    assert gone.wait(5)
    thread.join(5)
    os.close(read)


def test_children_do_not_inherit_the_pipe():
    """Otherwise a grandchild would hold what only the supervisor may hold."""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    thread = watch_supervisor(read, lambda: None)
    assert not os.get_inheritable(read)
    os.close(write)
    thread.join(5)
    os.close(read)


def test_a_closed_descriptor_is_an_error():
    """A wrong --parent-fd must not look like a dead supervisor."""
    read, write = os.pipe()
    os.close(write)
    os.close(read)
    with pytest.raises(OSError, match="Bad file descriptor"):
        watch_supervisor(read, lambda: None)


def test_children_and_grandchildren_end_too():
    """Whatever the worker has started is killed with it."""
    code = (
        "import subprocess, sys, time\n"
        "from vllama_server.supervisor_watch import end_at_once, watch_supervisor\n"
        'child = \'import subprocess, time; subprocess.Popen(["sleep", "60"]); print(1, flush=True); time.sleep(60)\'\n'
        "subprocess.Popen([sys.executable, '-c', child])\n"
        "watch_supervisor(int(sys.argv[1]), end_at_once)\n"
        "time.sleep(60)\n"
    )
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code, str(read)], pass_fds=(read,), stdout=subprocess.PIPE)
    os.close(read)
    assert process.stdout.readline()
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 2
    os.close(write)
    assert process.wait(5) == 1
    process.stdout.close()
    deadline = time.monotonic() + 5
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_resource_trackers_outlive_their_processes():
    """Only then do they remove shared memory, which nothing else does."""
    code = (
        "import sys, time\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "from vllama_server.supervisor_watch import end_at_once, watch_supervisor\n"
        "print(SharedMemory(create=True, size=64).name, flush=True)\n"
        "watch_supervisor(int(sys.argv[1]), end_at_once)\n"
        "time.sleep(60)\n"
    )
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(read)],
        pass_fds=(read,),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the tracker prints what it removes
    )
    os.close(read)
    memory = Path("/dev/shm") / process.stdout.readline().decode().strip()
    assert memory.exists()
    os.close(write)
    assert process.wait(5) == 1
    process.stdout.close()
    deadline = time.monotonic() + 10
    while memory.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
