"""Output of a simulated generation."""

from hypothesis import given
from hypothesis import strategies as st

from vllama_protos.v1.generation_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP
from vllama_server.fake_engine.output import Output


def test_the_text_counts_its_tokens():
    """Token i is " hash.i"."""
    assert Output(0xABCD, 3).text(0, 3) == " abcd.0 abcd.1 abcd.2"


def test_a_stop_text_ends_the_output_before_itself():
    """The matched text is no part of the output, the token that completed it counts."""
    output = Output(0xABCD, 10, stop=["d.2"])
    assert (output.limit, output.reason, output.matched_stop) == (3, FINISH_REASON_STOP, "d.2")
    assert output.text(0, 3) == " abcd.0 abcd.1 abc"


def test_a_stop_text_may_straddle_tokens():
    """The seam between two tokens hides nothing."""
    output = Output(0xABCD, 10, stop=[".1 a"])
    assert output.text(0, output.limit) == " abcd.0 abcd"


def test_the_first_of_several_stop_texts_wins():
    """The text that is complete first ends the output."""
    assert Output(0xABCD, 10, stop=["d.5", "d.3", "never"]).matched_stop == "d.3"


def test_a_stop_text_counts_only_after_the_fewest_tokens():
    """min_tokens outranks a stop text."""
    assert Output(0xABCD, 10, stop=["abcd"], min_tokens=4).limit == 5


def test_without_a_match_the_limit_ends_it():
    """A stop text that never comes changes nothing."""
    output = Output(0xABCD, 4, stop=["x"])
    assert (output.limit, output.reason, output.matched_stop) == (4, FINISH_REASON_LENGTH, "")


@given(st.integers(0, 0xFFFF), st.integers(0, 40), st.lists(st.text("0123456789abcdef. ", min_size=1), max_size=3))
def test_pieces_make_the_whole(hash16, limit, stop):
    """However the output is cut, nothing is lost and nothing comes twice."""
    output = Output(hash16, limit, stop)
    pieces = [output.text(index, index + 1) for index in range(output.limit)]
    assert "".join(pieces) == output.text(0, output.limit)
    whole = Output(hash16, limit).text(0, limit)
    assert whole.startswith(output.text(0, output.limit) + output.matched_stop)
    assert bool(output.matched_stop) == any(word in whole for word in stop)
