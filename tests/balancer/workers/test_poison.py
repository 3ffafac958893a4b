"""Which request may have crashed a worker."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from vllama_balancer.workers.poison import CancelledRequest, blamed


@dataclass(frozen=True)
class Aboard:
    """A request on the worker."""

    name: str
    produced: bool = False
    is_underway: bool = False
    had_output: bool = False
    crash_count: int = 0


def test_requests_before_their_first_token_come_first():
    """Streams in the middle of an answer have been served so far."""
    poison, innocent = Aboard("poison"), Aboard("innocent", produced=True)
    assert blamed([innocent, poison]) == [poison]


def test_a_second_crash_points_at_the_request_of_the_first():
    """The others are exonerated."""
    poison, newcomer = Aboard("poison", crash_count=1), Aboard("newcomer")
    assert blamed([newcomer, poison]) == [poison]


def test_a_stream_far_into_its_output_is_exonerated_by_one_that_has_just_begun():
    """A crash is rarely caused by the middle of an answer."""
    early, late = Aboard("early", produced=True), Aboard("late", produced=True, is_underway=True, crash_count=1)
    assert blamed([late, early]) == [early]
    assert blamed([late]) == [late]


def test_a_cancelled_request_exonerates_those_that_were_never_blamed():
    """The worker may still be busy with it; a request that was blamed before stays a suspect beside it."""
    burning, newcomer = CancelledRequest("burning", 0.0), Aboard("newcomer")
    poison = Aboard("poison", crash_count=1)
    assert blamed([newcomer, burning]) == [burning]
    assert blamed([newcomer, burning, poison]) == [burning, poison]


def test_when_all_decode_all_are_suspects():
    """At least one has to be blamed."""
    all_decoding = [Aboard("a", produced=True), Aboard("b", produced=True)]
    assert blamed(all_decoding) == all_decoding


def test_a_stream_that_another_worker_served_is_exonerated_by_one_that_none_did():
    """Both wait for their first token here, and both were present at the first crash."""
    poison, moved = Aboard("poison", crash_count=1), Aboard("moved", had_output=True, crash_count=1)
    assert blamed([moved, poison]) == [poison]


suspects = st.builds(Aboard, st.text(max_size=3), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2))


@given(st.lists(suspects, min_size=1), suspects)
def test_poison_that_dies_of_its_prompt_is_always_blamed_the_second_time(others, poison):
    """Whatever runs beside it: it has no token, and was blamed before."""
    poison = Aboard(poison.name, crash_count=1)
    assert poison in blamed([*others, poison])
