"""Generations are encoded as Ollama's replies, chunk by chunk or whole; the fast path equals the general one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllama_balancer.edge.body import encode_line
from vllama_balancer.edge.ollama.encoder import ChatEncoder, GenerateEncoder, PlainLines, ReplyEncoder, is_plain
from vllama_balancer.edge.ollama.schema import AssistantMessage, Reply
from vllama_balancer.edge.ollama.timings import GenerationTimings
from vllama_balancer.edge.wire.accumulator import event_of
from vllama_balancer.errors import EngineFault, WorkerLost
from vllama_balancer.fake_gateway import delta, finished, started
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vllama_balancer.edge.wire.accumulator import Event
    from vllama_balancer.fake_gateway import Step

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
METRICS = {
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}

TEXTS = st.text(min_size=1)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
TIMES = st.datetimes(min_value=datetime(2000, 1, 1), timezones=ZONES)


def new_encoder(kind: type[ReplyEncoder] = ChatEncoder, *, step_ns: int = 1, **options: Any) -> ReplyEncoder:
    """An encoder whose clock advances by a step at each reading."""
    clock = count(step_ns, step_ns)
    return kind("M", lambda: NOW, GenerationTimings(lambda: next(clock), keep_tokens=True), **options)


async def play(*steps: Step) -> AsyncIterator[Event]:
    """Yields events."""
    for step in steps:
        assert isinstance(step, generation_pb2.GenerateResponse)
        event = event_of(step)
        assert event is not None
        yield event


async def decoded_lines(encoder: ReplyEncoder, *steps: Step) -> list[dict[str, Any]]:
    """Chunks as clients decode them."""
    return [msgspec.json.decode(line) async for line in encoder.lines(play(*steps))]


async def decoded_whole(encoder: ReplyEncoder, *steps: Step) -> dict[str, Any]:
    """One reply as clients decode it."""
    decoded: dict[str, Any] = msgspec.json.decode(encode_line(await encoder.whole(play(*steps))))
    return decoded


async def test_a_chunk_that_is_not_the_last_has_no_metrics() -> None:
    """Role and content are in every chunk; everything else only where it belongs."""
    chunks = await decoded_lines(new_encoder(), started(), delta("a"), finished())
    assert chunks[0] == {
        "model": "M",
        "created_at": "2026-11-22T12:00:00.123456Z",
        "message": {"role": "assistant", "content": "a"},
        "done": False,
    }
    assert set(chunks[1]) == {"model", "created_at", "message", "done", "done_reason"} | METRICS
    assert chunks[1]["message"] == {"role": "assistant", "content": ""}
    assert chunks[1]["done_reason"] == "stop"


async def test_metrics_are_the_workers_own_and_fit_the_total() -> None:
    """Queueing counts as load; nanoseconds are integers."""
    (last,) = await decoded_lines(new_encoder(), finished(prompt_tokens=5, completion_tokens=9))
    assert (last["load_duration"], last["prompt_eval_duration"], last["eval_duration"]) == (3e6, 3e6, 4e6)
    assert (last["prompt_eval_count"], last["eval_count"]) == (5, 9)
    assert last["total_duration"] == 10_000_000
    assert all(isinstance(last[name], int) for name in METRICS)


async def test_missing_timings_are_measured_here() -> None:
    """A worker without timings does not make a zero."""
    silent = generation_pb2.GenerateResponse(finished=generation_pb2.Finished(reason=generation_pb2.FINISH_REASON_STOP))
    last = (await decoded_lines(new_encoder(step_ns=1000), started(), delta("a"), silent))[-1]
    assert all(last[name] >= 1 for name in METRICS - {"eval_count"})
    spans = last["load_duration"] + last["prompt_eval_duration"] + last["eval_duration"]
    assert spans <= last["total_duration"]


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (generation_pb2.FINISH_REASON_STOP, "stop"),
        (generation_pb2.FINISH_REASON_LENGTH, "length"),
        (generation_pb2.FINISH_REASON_TOOL_CALLS, "stop"),
    ],
)
async def test_done_reasons(reason: generation_pb2.FinishReason, word: str) -> None:
    """Tool calls end with stop, as in Ollama."""
    assert (await decoded_lines(new_encoder(), finished(reason)))[-1]["done_reason"] == word


async def test_a_chunk_carries_thinking_or_content() -> None:
    """A delta with both becomes two chunks, thinking first."""
    chunks = await decoded_lines(new_encoder(), delta("b", thinking="a"), finished())
    assert [chunk["message"] for chunk in chunks[:2]] == [
        {"role": "assistant", "content": "", "thinking": "a"},
        {"role": "assistant", "content": "b"},
    ]
    chunks = await decoded_lines(new_encoder(GenerateEncoder), delta("b", thinking="a"), finished())
    assert [(chunk["response"], chunk.get("thinking")) for chunk in chunks[:2]] == [("", "a"), ("b", None)]


async def test_tool_calls_are_whole_and_numbered() -> None:
    """Arguments are objects in the model's order; a call without an id gets one."""
    calls = [
        generation_pb2.ToolCall(id="call_1", name="f", arguments_json='{ "z": 1,\n "a": 12345678901234567890123 }'),
        generation_pb2.ToolCall(name="g", arguments_json=""),
    ]
    steps = (delta(tool_calls=calls[:1]), delta(tool_calls=calls[1:]), finished())
    chunks = [line async for line in new_encoder().lines(play(*steps))]
    assert b'"arguments":{"z":1,"a":12345678901234567890123}' in chunks[0]
    first, second = (msgspec.json.decode(chunk)["message"]["tool_calls"][0] for chunk in chunks[:2])
    assert (first["id"], first["function"]["index"], first["function"]["name"]) == ("call_1", 0, "f")
    assert second["id"].startswith("call_")
    assert len(second["id"]) == len("call_") + 8
    assert second["function"] == {"index": 1, "name": "g", "arguments": {}}


@pytest.mark.parametrize("text", ["[1]", "{", '"x"', "nonsense"])
async def test_arguments_that_are_no_object_are_shown_as_text(text: str) -> None:
    """Clients crash on anything but an object; nothing is lost."""
    call = generation_pb2.ToolCall(name="f", arguments_json=text)
    chunks = await decoded_lines(new_encoder(), delta(tool_calls=[call]), finished())
    assert chunks[0]["message"]["tool_calls"][0]["function"]["arguments"] == {"arguments": text}


def entry(text: str, *top: str) -> generation_pb2.TokenLogprobs:
    """Log probabilities of one token."""
    tokens = [generation_pb2.TokenLogprob(text=each, bytes=each.encode(), logprob=-0.5) for each in (text, *top)]
    return generation_pb2.TokenLogprobs(token=tokens[0], top=tokens[1:])


async def test_logprobs_come_with_their_tokens() -> None:
    """Each chunk has its own entries, even one whose text is held back; alternatives only when asked for."""
    steps = (delta(logprobs=[entry("a")]), delta("ab", logprobs=[entry("b", "b", "c")]), finished())
    chunks = await decoded_lines(new_encoder(), *steps)
    assert chunks[0]["message"]["content"] == ""
    assert chunks[0]["logprobs"] == [{"token": "a", "logprob": -0.5, "bytes": [97]}]
    assert [each["token"] for each in chunks[1]["logprobs"][0]["top_logprobs"]] == ["b", "c"]
    assert "logprobs" not in chunks[2]
    whole = await decoded_whole(new_encoder(), *steps)
    assert [each["token"] for each in whole["logprobs"]] == ["a", "b"]


async def test_context_is_prompt_and_answer() -> None:
    """Generate's last chunk has it, unless the prompt was raw."""
    steps = (started([1, 2]), delta("a", token_ids=[3]), delta(token_ids=[4]), finished())
    chunks = await decoded_lines(new_encoder(GenerateEncoder), *steps)
    assert chunks[-1]["context"] == [1, 2, 3, 4]
    assert "context" not in chunks[0]
    assert (await decoded_whole(new_encoder(GenerateEncoder), *steps))["context"] == [1, 2, 3, 4]
    assert "context" not in (await decoded_whole(new_encoder(GenerateEncoder, with_context=False), *steps))


async def test_no_tokens_are_no_tokens() -> None:
    """num_predict 0 evaluates the prompt only."""
    length = generation_pb2.FINISH_REASON_LENGTH
    whole = await decoded_whole(new_encoder(GenerateEncoder), started(), finished(length, completion_tokens=0))
    assert (whole["response"], whole["done_reason"], whole["eval_count"]) == ("", "length", 0)


async def test_an_aborted_generation_is_an_error() -> None:
    """An aborted generation is not a reply."""
    aborted = finished(generation_pb2.FINISH_REASON_ABORTED)
    with pytest.raises(WorkerLost):
        await decoded_lines(new_encoder(), started(), aborted)
    with pytest.raises(WorkerLost):
        await decoded_whole(new_encoder(), started(), aborted)


async def test_a_generation_without_an_end_is_an_error() -> None:
    """A stream that just stops must not look complete."""
    with pytest.raises(EngineFault):
        await decoded_lines(new_encoder(), started(), delta("a"))
    with pytest.raises(EngineFault):
        await decoded_whole(new_encoder(), started(), delta("a"))


@given(st.lists(st.tuples(st.text(), st.text())))
async def test_streamed_text_equals_the_whole(pieces: list[tuple[str, str]]) -> None:
    """Whatever the deltas are, nothing is lost or repeated, and every line survives splitlines."""
    try:
        steps = [delta(text, thinking=thinking) for text, thinking in pieces]
    except UnicodeEncodeError:
        return
    encoder = new_encoder()
    lines = [line async for line in encoder.lines(play(started(), *steps, finished()))]
    assert all(len(line.decode().splitlines()) == 1 for line in lines)
    chunks = [msgspec.json.decode(line) for line in lines]
    whole = await decoded_whole(new_encoder(), started(), *steps, finished())
    assert "".join(chunk["message"]["content"] for chunk in chunks) == whole["message"]["content"]
    thoughts = "".join(chunk["message"].get("thinking", "") for chunk in chunks)
    assert thoughts == whole["message"].get("thinking", "")


@given(TEXTS, TEXTS, TIMES)
@example('"\\\n\x00', "\u2028\u2029\x85 é 🦙 \\u2028", datetime(2026, 1, 1, tzinfo=UTC))
def test_a_line_of_chat_is_what_the_encoder_makes(requested, text, now):
    """Byte for byte."""
    message = AssistantMessage(text)
    usual = encode_line(Reply(model=requested, created_at=now, message=message, done=False))
    assert PlainLines.of_chat(requested, lambda: now).line(text) == usual


@given(TEXTS, TEXTS, TIMES)
@example('"\\\n\x00', "\u2028\u2029\x85 é 🦙 \\u2028", datetime(2026, 1, 1, tzinfo=UTC))
def test_a_line_of_generate_is_what_the_encoder_makes(requested, text, now):
    """Byte for byte."""
    usual = encode_line(Reply(model=requested, created_at=now, response=text, done=False))
    assert PlainLines.of_generate(requested, lambda: now).line(text) == usual


def test_only_text_alone_is_plain():
    """Everything else that a line shows goes the general way; token ids are not shown."""
    assert is_plain(generation_pb2.Delta(text="a", token_ids=[1]))
    assert not is_plain(generation_pb2.Delta(token_ids=[1]))
    assert not is_plain(generation_pb2.Delta(text="a", thinking="b"))
    assert not is_plain(generation_pb2.Delta(text="a", tool_calls=[generation_pb2.ToolCall()]))
    assert not is_plain(generation_pb2.Delta(text="a", logprobs=[generation_pb2.TokenLogprobs()]))
