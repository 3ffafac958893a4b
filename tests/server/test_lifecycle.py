"""The states of a worker."""

import pytest

from vllama_protos.v1 import worker_pb2
from vllama_server.lifecycle import Lifecycle


def test_a_worker_starts_serves_and_drains():
    """The usual order."""
    life = Lifecycle()
    seen = [life.state]
    for step in (life.mark_ready, life.mark_draining):
        step()
        seen.append(life.state)
    assert seen == [worker_pb2.WORKER_STATE_STARTING, worker_pb2.WORKER_STATE_READY, worker_pb2.WORKER_STATE_DRAINING]


def test_progress_counts_only_while_starting():
    """A late report of a start that is over changes nothing; shares are kept within 0 and 1."""
    life = Lifecycle()
    life.set_progress(worker_pb2.START_PHASE_LOAD, 1.7)
    assert (life.phase, life.progress) == (worker_pb2.START_PHASE_LOAD, 1.0)
    life.mark_ready()
    life.set_progress(worker_pb2.START_PHASE_COMPILE, 0.5)
    assert life.phase == worker_pb2.START_PHASE_LOAD


def test_each_phase_is_logged_once(caplog):
    """Progress within a phase is for watchers and not for the log."""
    caplog.set_level("INFO")
    life = Lifecycle()
    for phase, share in (
        (worker_pb2.START_PHASE_LOAD, 0.1),
        (worker_pb2.START_PHASE_LOAD, 0.9),
        (worker_pb2.START_PHASE_WARM_UP, 0.0),
    ):
        life.set_progress(phase, share)
    assert [record.getMessage() for record in caplog.records] == ["starting: load", "starting: warm up"]


def test_the_first_failure_stays():
    """Later failures do not replace it."""
    life = Lifecycle()
    life.mark_failed("cause")
    life.mark_failed("consequence")
    life.mark_draining()
    life.mark_ready()
    assert (life.state, life.failure) == (worker_pb2.WORKER_STATE_FAILED, "cause")


def test_a_draining_worker_does_not_become_ready():
    """A drain during the start lasts until it is taken back."""
    life = Lifecycle()
    life.mark_draining()
    life.mark_ready()
    assert life.state == worker_pb2.WORKER_STATE_DRAINING
    assert life.mark_undrained()
    assert life.state == worker_pb2.WORKER_STATE_READY


def started():
    """A worker that still starts."""
    return Lifecycle()


def ready():
    """A worker that serves."""
    life = Lifecycle()
    life.mark_ready()
    return life


def asleep():
    """A worker that sleeps."""
    life = ready()
    life.mark_asleep()
    return life


@pytest.mark.parametrize("make", [started, ready, asleep])
def test_a_drain_that_is_taken_back_leaves_the_worker_as_it_was(make):
    """Also a second drain, and one that was taken back before."""
    life = make()
    before = life.state
    for _ in range(2):
        life.mark_draining()
        life.mark_draining()
        assert life.mark_undrained()
        assert life.mark_undrained()
        assert life.state == before


def test_the_drain_of_a_process_that_ends_is_not_taken_back():
    """The stop signal may have come after a drain by a call."""
    life = ready()
    life.mark_draining()
    life.mark_draining(for_good=True)
    assert not life.mark_undrained()
    assert life.state == worker_pb2.WORKER_STATE_DRAINING


def test_a_failed_worker_takes_no_drain_back():
    """It stays failed."""
    life = ready()
    life.mark_draining()
    life.mark_failed("cause")
    assert not life.mark_undrained()
    assert life.state == worker_pb2.WORKER_STATE_FAILED


@pytest.mark.parametrize(
    "change",
    [
        lambda life: life.mark_ready(),
        lambda life: life.mark_draining(),
        lambda life: life.mark_failed("x"),
        lambda life: life.set_progress(worker_pb2.START_PHASE_LOAD, 0.1),
        lambda life: life.close(),
    ],
)
def test_every_change_is_announced_once(change):
    """An event taken before the change is set; one taken afterwards waits for the next."""
    life = Lifecycle()
    before = life.next_change
    change(life)
    assert before.is_set()
    assert not life.next_change.is_set()
