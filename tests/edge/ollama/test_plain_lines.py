"""The hand-made line is the encoder's line, whatever is in it."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import example, given
from hypothesis import strategies as st

from vllama_balancer.edge.body import encode_line
from vllama_balancer.edge.ollama.plain_lines import PlainLines, is_plain
from vllama_balancer.edge.ollama.replies import AssistantMessage, Reply
from vllama_protos.v1 import generation_pb2

TEXTS = st.text(min_size=1)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
TIMES = st.datetimes(min_value=datetime(2000, 1, 1), timezones=ZONES)


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
