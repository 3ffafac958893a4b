"""The builders of a generation's events: what is given is what a client reads."""

from hypothesis import given
from hypothesis import strategies as st

from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine import events

UINT32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
TOKEN = st.builds(pb.TokenLogprob, id=UINT32, text=TEXT, bytes=st.binary(max_size=8), logprob=st.floats(-1e6, 0))
POSITION = st.builds(pb.TokenLogprobs, token=TOKEN, top=st.lists(TOKEN, max_size=3))
CALL = st.builds(pb.ToolCall, id=TEXT, name=TEXT, arguments_json=TEXT)


@given(TEXT, TEXT, st.lists(CALL, max_size=2), st.lists(UINT32, max_size=5), st.lists(POSITION, max_size=3))
def test_a_delta_survives_the_wire(text, thinking, calls, token_ids, logprobs):
    """Serialized and parsed, it has every part, also when all are empty."""
    made = events.delta(text, token_ids, thinking=thinking, tool_calls=calls, logprobs=logprobs)
    message = pb.GenerateResponse.FromString(made.SerializeToString())
    assert message.WhichOneof("event") == "delta"
    assert (message.delta.text, message.delta.thinking) == (text, thinking)
    assert list(message.delta.tool_calls) == calls
    assert list(message.delta.token_ids) == token_ids
    assert list(message.delta.logprobs) == logprobs


@given(
    st.sampled_from(pb.FinishReason.values()),
    TEXT,
    st.lists(UINT32, min_size=4, max_size=4),
    st.lists(st.floats(-5, 1e6), min_size=3, max_size=3),
)
def test_an_end_survives_the_wire(reason, stop, counts, seconds):
    """Reason, counts and times; a time that clocks made negative is 0."""
    made = events.finished(
        reason,
        prompt_tokens=counts[0],
        completion_tokens=counts[1],
        cached_prompt_tokens=counts[2],
        reasoning_tokens=counts[3],
        matched_stop=stop,
        queue_seconds=seconds[0],
        prefill_seconds=seconds[1],
        decode_seconds=seconds[2],
    )
    message = pb.GenerateResponse.FromString(made.SerializeToString()).finished
    assert message.reason == reason
    usage = message.usage
    assert [usage.prompt_tokens, usage.completion_tokens, usage.cached_prompt_tokens, usage.reasoning_tokens] == counts
    assert message.matched_stop == stop
    times = message.timings
    assert times.HasField("load")
    read = [times.queue.ToNanoseconds(), times.prompt.ToNanoseconds(), times.decode.ToNanoseconds()]
    assert read == [max(0, round(one * 1e9)) for one in seconds]


@given(st.lists(UINT32, max_size=50), st.booleans())
def test_a_start_has_the_prompt_only_when_asked(ids, wanted):
    """The count always comes, the ids on request."""
    request = pb.GenerateRequest(return_prompt_token_ids=wanted)
    message = events.started(request, ids, cached_prompt_tokens=3, dropped_messages=1).started
    assert message.prompt_tokens == len(ids)
    assert list(message.prompt_token_ids) == (ids if wanted else [])
    assert (message.cached_prompt_tokens, message.dropped_messages) == (3, 1)
