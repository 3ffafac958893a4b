"""Any JSON object at /v1/messages is either a valid generation or refused by the name of a field."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from vllama_balancer.edge.anthropic.messages_request import MessagesRequest, to_generation
from vllama_balancer.edge.body import decode_json
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

INNER_WORDS = "role content type text source data id name input tool_use_id thinking effort format schema user_id"
WORDS = sorted({*MessagesRequest.__struct_fields__, *INNER_WORDS.split(), "input_schema", "description"})
KNOWN_TEXTS = """
user assistant text image tool_use tool_result thinking document base64 aGk= ! enabled disabled any tool high
json_schema custom web_search_20250305
"""
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 10**30, -(10**30)])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", *KNOWN_TEXTS.split()])
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)
BLOCKS = st.lists(st.dictionaries(st.sampled_from(INNER_WORDS.split()), VALUES, max_size=4), max_size=3)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": BLOCKS | VALUES}), max_size=3
)
BODIES = st.builds(
    lambda body, messages, tokens: {"model": "m", "max_tokens": tokens, "messages": messages, **body},
    st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=5),
    MESSAGES,
    st.integers(-1, 10**12),
)
PLAIN: dict[str, Any] = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}


@settings(max_examples=100, deadline=None)
@given(body=BODIES)
@example(body={**PLAIN, "max_tokens": 10**30, "top_k": -(10**30), "temperature": -1e300, "top_p": 1e300})
@example(body={})
def test_any_object_is_translated_or_refused_by_name(body: Any) -> None:
    """The translation ends in a message that the wire can carry, or in one sentence about one field."""
    try:
        generation = to_generation(decode_json(json.dumps(body).encode(), MessagesRequest))
    except InvalidRequest as error:
        assert error.field
        assert str(error)
    else:
        assert generation_pb2.GenerateRequest.FromString(generation.SerializeToString()) == generation
