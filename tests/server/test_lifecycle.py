"""The states of a worker."""

import pytest

from vllama_server.engine.protocol import StartPhase
from vllama_server.lifecycle import Lifecycle, State


def test_a_worker_starts_serves_and_drains():
    """The ordinary life."""
    life = Lifecycle()
    seen = [life.state]
    for step in (life.ready, life.draining):
        step()
        seen.append(life.state)
    assert seen == [State.STARTING, State.READY, State.DRAINING]


def test_progress_counts_only_while_starting():
    """A late report of a start that is over changes nothing; shares are kept within 0 and 1."""
    life = Lifecycle()
    life.progressed(StartPhase.LOAD, 1.7)
    assert (life.phase, life.progress) == (StartPhase.LOAD, 1.0)
    life.ready()
    life.progressed(StartPhase.COMPILE, 0.5)
    assert life.phase is StartPhase.LOAD


def test_each_phase_is_logged_once(caplog):
    """Progress within a phase is for watchers and not for the log."""
    caplog.set_level("INFO")
    life = Lifecycle()
    for phase, share in ((StartPhase.LOAD, 0.1), (StartPhase.LOAD, 0.9), (StartPhase.WARM_UP, 0.0)):
        life.progressed(phase, share)
    assert [record.getMessage() for record in caplog.records] == ["starting: load", "starting: warm up"]


def test_the_first_failure_stays():
    """What follows from it does not hide it."""
    life = Lifecycle()
    life.failed("cause")
    life.failed("consequence")
    life.draining()
    life.ready()
    assert (life.state, life.failure) == (State.FAILED, "cause")


def test_a_draining_worker_does_not_become_ready():
    """A drain during the start is final."""
    life = Lifecycle()
    life.draining()
    life.ready()
    assert life.state is State.DRAINING


@pytest.mark.parametrize(
    "change",
    [
        lambda life: life.ready(),
        lambda life: life.draining(),
        lambda life: life.failed("x"),
        lambda life: life.progressed(StartPhase.LOAD, 0.1),
        lambda life: life.close(),
    ],
)
def test_every_change_is_announced_once(change):
    """Who took the event before the change sees it; who takes it afterwards waits for the next."""
    life = Lifecycle()
    before = life.next_change
    change(life)
    assert before.is_set()
    assert not life.next_change.is_set()
