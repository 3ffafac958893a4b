"""From the engine to the wire.

What a worker says of itself, on the wire.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vllama_protos.v1 import generation_pb2 as pb
from vllama_protos.v1 import worker_pb2
from vllama_server.engine.description import Capability, Device, EngineDescription, ModelInfo
from vllama_server.engine.events import Accepted, Chunk, Completed, FinishReason, PositionLogprobs, TokenLogprob
from vllama_server.engine.protocol import StartPhase
from vllama_server.engine.requests import Sampling, ToolCall
from vllama_server.identity import WorkerIdentity
from vllama_server.lifecycle import State
from vllama_server.wire import responses

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
    message = pb.GenerateResponse.FromString(responses.delta(chunk).SerializeToString())
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
    message = pb.GenerateResponse.FromString(responses.finished(event).SerializeToString()).finished
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
    message = responses.started(Accepted(ids, 3, 1), WorkerIdentity("w", ("m",), "boot"), with_prompt=wanted).started
    assert (message.worker, message.boot_id, message.prompt_tokens) == ("w", "boot", len(ids))
    assert list(message.prompt_token_ids) == (ids if wanted else [])
    assert (message.cached_prompt_tokens, message.dropped_messages) == (3, 1)


DESCRIPTION = EngineDescription(
    capabilities=frozenset(Capability),
    context_length=4096,
    max_streams=64,
    kv_cache_tokens=2**40,
    block_tokens=16,
    device=Device("cuda", "GPU", 24 * 2**30),
    versions={"vllm": "0.32.0"},
    model_info=ModelInfo(
        architecture="llama",
        parameter_count=135_000_000,
        size_bytes=2**33,
        embedding_length=576,
        block_count=30,
        head_count=9,
        head_count_kv=3,
        vocabulary_size=49_152,
        trained_context_length=8192,
        quantization="BF16",
        chat_template="{{ x }}",
        default_sampling=Sampling(temperature=0.0, top_k=50),
        tool_parser="hermes",
        reasoning_parser="qwen3",
    ),
)


def test_a_description_arrives_whole():
    """No field of the engine's description is lost."""
    message = responses.description(WorkerIdentity("w", ("m",), "boot"), {"vllama": "1"}, DESCRIPTION)
    assert len(message.capabilities) == len(Capability)
    assert (message.context_length, message.max_streams) == (4096, 64)
    assert (message.kv_cache_tokens, message.block_tokens) == (2**40, 16)
    assert message.device == worker_pb2.Device(kind="cuda", name="GPU", memory_bytes=24 * 2**30)
    assert dict(message.versions) == {"vllama": "1", "vllm": "0.32.0"}
    for field in worker_pb2.ModelInfo.DESCRIPTOR.fields:
        if field.name != "default_sampling":
            assert getattr(message.model_info, field.name) == getattr(DESCRIPTION.model_info, field.name)


def test_default_sampling_keeps_unset_apart_from_zero():
    """A greedy default is not an absent one."""
    message = responses.default_sampling(Sampling(temperature=0.0))
    assert message.HasField("temperature")
    assert not message.HasField("top_p")


def test_every_value_has_its_counterpart():
    """No capability, state or phase of the engine is without a name on the wire."""
    for kind, table in ((Capability, responses.CAPABILITIES), (State, responses.STATES)):
        assert set(table) == set(kind)
    assert set(responses.PHASES) == set(StartPhase)
    assert len(set(responses.CAPABILITIES.values())) == len(worker_pb2.Capability.values()) - 1
    assert len(set(responses.STATES.values())) == len(worker_pb2.WorkerState.values()) - 1
    assert len(set(responses.PHASES.values())) == len(worker_pb2.StartPhase.values()) - 1
