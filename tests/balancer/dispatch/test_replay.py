"""Continuation of a broken stream; a replayed one is checked letter by letter."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_balancer.dispatch.replay import Delivered, Diverged, Replay
from vllama_protos.v1 import generation_pb2 as pb


def deltas(tokens, cuts):
    """Cuts one stream of tokens into deltas."""
    bounds = sorted({0, len(tokens), *(cut for cut in cuts if cut < len(tokens))})
    return [
        pb.Delta(text="".join(f" {t}" for t in tokens[a:b]), token_ids=tokens[a:b])
        for a, b in itertools.pairwise(bounds)
    ]


tokens_and_cuts = st.tuples(
    st.lists(st.integers(0, 999), min_size=1, max_size=30),
    st.lists(st.integers(0, 30)),
    st.lists(st.integers(0, 30)),
    st.integers(0, 30),
)


@given(tokens_and_cuts)
def test_a_replay_continues_exactly_where_the_stream_broke(case):
    """However the two runs were cut into deltas."""
    tokens, cuts, other_cuts, broke_at = case
    delivered = Delivered()
    for delta in deltas(tokens, cuts)[:broke_at]:
        delivered.add(delta)
    text = "".join(delivered.texts)
    ids = list(delivered.token_ids)
    replay = Replay(delivered)
    for delta in deltas(tokens, other_cuts):
        rest = replay.remainder(delta)
        text += rest.text
        ids += rest.token_ids
    assert text == "".join(f" {t}" for t in tokens)
    assert ids == tokens
    assert replay.is_over


def test_another_token_is_a_divergence():
    """Even where the text agrees."""
    delivered = Delivered()
    delivered.add(pb.Delta(text=" a b", token_ids=[1, 2]))
    with pytest.raises(Diverged):
        Replay(delivered).remainder(pb.Delta(text=" a", token_ids=[9]))


def test_another_text_is_a_divergence():
    """Even where the tokens agree."""
    delivered = Delivered()
    delivered.add(pb.Delta(text=" a b", token_ids=[1, 2]))
    with pytest.raises(Diverged):
        Replay(delivered).remainder(pb.Delta(text=" x", token_ids=[1]))


def test_thinking_and_tool_calls_are_dropped_too():
    """Calls are compared without their ids, which are random."""
    call = pb.ToolCall(id="call-1", name="add", arguments_json="{}")
    delivered = Delivered()
    delivered.add(pb.Delta(thinking="hm", token_ids=[1]))
    delivered.add(pb.Delta(tool_calls=[call], token_ids=[2]))
    again = pb.ToolCall(id="call-9", name="add", arguments_json="{}")
    replay = Replay(delivered)
    rest = replay.remainder(pb.Delta(thinking="hmm", tool_calls=[again], token_ids=[1, 2, 3]))
    assert rest.thinking == "m"
    assert not rest.tool_calls
    assert list(rest.token_ids) == [3]


def test_logprobs_are_cut_with_their_tokens():
    """One entry for each token that remains."""
    delivered = Delivered()
    delivered.add(pb.Delta(token_ids=[1]))
    logprobs = [pb.TokenLogprobs(token=pb.TokenLogprob(id=i)) for i in (1, 2)]
    rest = Replay(delivered).remainder(pb.Delta(token_ids=[1, 2], logprobs=logprobs))
    assert [entry.token.id for entry in rest.logprobs] == [2]


def test_delivered_output_is_returned_as_one_message():
    """As the client sends it with its next turn, however the deltas were cut."""
    call = pb.ToolCall(id="call-1", name="add", arguments_json="{}")
    delivered = Delivered()
    for delta in (pb.Delta(thinking="hm"), pb.Delta(text="it "), pb.Delta(text="is"), pb.Delta(tool_calls=[call])):
        delivered.add(delta)
    assert delivered.message() == pb.Message(role="assistant", thinking="hm", content="it is", tool_calls=[call])
