"""From the engine to the wire."""

from hypothesis import given
from hypothesis import strategies as st

from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine.events import Accepted, Chunk, Completed, FinishReason, PositionLogprobs, TokenLogprob
from vllama_server.engine.requests import ToolCall
from vllama_server.identity import Identity
from vllama_server.wire import events

UINT32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
TOKEN = st.builds(TokenLogprob, UINT32, TEXT, st.binary(max_size=8), st.floats(-1e6, 0))
POSITION = st.builds(PositionLogprobs, TOKEN, st.lists(TOKEN, max_size=3).map(tuple))
CHUNK = st.builds(
    Chunk,
    text=TEXT,
    thinking=TEXT,
    tool_calls=st.lists(st.builds(ToolCall, TEXT, TEXT, TEXT), max_size=2).map(tuple),
    token_ids=st.lists(UINT32, max_size=5),
    logprobs=st.lists(POSITION, max_size=3),
)


def read_token(message):
    """Reads one token back."""
    return TokenLogprob(message.id, message.text, message.bytes, message.logprob)


def read_chunk(message):
    """Reads a delta back."""
    return Chunk(
        text=message.text,
        thinking=message.thinking,
        tool_calls=tuple(ToolCall(call.id, call.name, call.arguments_json) for call in message.tool_calls),
        token_ids=list(message.token_ids),
        logprobs=[PositionLogprobs(read_token(one.token), tuple(map(read_token, one.top))) for one in message.logprobs],
    )


@given(CHUNK)
def test_a_chunk_survives_the_wire(chunk):
    """Serialized and parsed, the delta says what the chunk said, even when that is nothing."""
    message = pb.GenerateResponse.FromString(events.delta(chunk).SerializeToString())
    assert message.WhichOneof("event") == "delta"
    assert read_chunk(message.delta) == chunk


@given(
    st.sampled_from(FinishReason),
    TEXT,
    st.lists(UINT32, min_size=4, max_size=4),
    st.lists(st.floats(-5, 1e6), min_size=3, max_size=3),
)
def test_an_end_survives_the_wire(reason, stop, counts, seconds):
    """Reason, counts and times; a time that clocks made negative is 0."""
    event = Completed(reason, counts[0], counts[1], counts[2], counts[3], stop, *seconds)
    message = pb.GenerateResponse.FromString(events.finished(event).SerializeToString()).finished
    assert pb.FinishReason.Name(message.reason) == f"FINISH_REASON_{reason.name}"
    usage = message.usage
    assert [usage.prompt_tokens, usage.completion_tokens, usage.cached_prompt_tokens, usage.reasoning_tokens] == counts
    assert message.matched_stop == stop
    times = message.timings
    read = [times.queue.ToNanoseconds(), times.prompt.ToNanoseconds(), times.decode.ToNanoseconds()]
    assert read == [max(0, round(one * 1e9)) for one in seconds]


@given(st.lists(UINT32, max_size=50), st.booleans())
def test_a_start_tells_the_prompt_only_when_asked(ids, wanted):
    """The count always comes, the ids on request."""
    message = events.started(Accepted(ids, 3, 1), Identity("w", ("m",), "boot"), with_prompt=wanted).started
    assert (message.worker, message.boot_id, message.prompt_tokens) == ("w", "boot", len(ids))
    assert list(message.prompt_token_ids) == (ids if wanted else [])
    assert (message.cached_prompt_tokens, message.dropped_messages) == (3, 1)
