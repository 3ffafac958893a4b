"""The averages from which clients weigh a worker."""

from contextlib import ExitStack

import pytest

from vllama_server.occupancy import Occupancy


class Clock:
    """Time that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        """The present."""
        return self.now


def serve(occupancy, clock, seconds, at_once, rounds):
    """Runs `rounds` rounds of streams that each take so long, so many at once."""
    for _ in range(rounds):
        with ExitStack() as inside:
            for _ in range(at_once):
                inside.enter_context(occupancy.stream())
            clock.now += seconds


@pytest.mark.parametrize("rounds", [1, 3, 100])
@pytest.mark.parametrize("at_once", [1, 8])
def test_the_weight_is_what_one_stream_takes(rounds, at_once):
    """Completed streams per second by streams inside is one by a stream's time, from the first stream on."""
    clock = Clock()
    occupancy = Occupancy(clock)
    serve(occupancy, clock, 0.5, at_once, rounds)
    assert occupancy.streams / occupancy.completed_per_second == pytest.approx(0.5, rel=0.03)


def test_an_idle_worker_keeps_its_weight():
    """Both averages fade alike, so what a worker is worth is not forgotten while nobody calls it."""
    clock = Clock()
    occupancy = Occupancy(clock)
    serve(occupancy, clock, 2.0, 4, 5)
    before = occupancy.completed_per_second / occupancy.streams
    clock.now += 60
    assert occupancy.completed_per_second / occupancy.streams == pytest.approx(before)
    assert occupancy.streams < 0.05


def test_failed_streams_do_not_count_as_work():
    """A worker that fails at once must not look fast."""
    clock = Clock()
    occupancy = Occupancy(clock)
    with pytest.raises(RuntimeError), occupancy.stream():
        raise RuntimeError
    assert occupancy.completed_per_second == 0


def test_waiting_shows_as_more_streams():
    """Streams that do not end fill the average up to their number."""
    clock = Clock()
    occupancy = Occupancy(clock, window_seconds=1.0)
    with ExitStack() as inside:
        for _ in range(3):
            inside.enter_context(occupancy.stream())
        clock.now += 50
        assert occupancy.streams == pytest.approx(3)
