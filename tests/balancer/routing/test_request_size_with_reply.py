"""The next turn of a conversation begins with the blocks of the prompt and its reply."""

from __future__ import annotations

import pytest

from vllama_balancer.routing.prefix_index import BLOCK_BYTES, Prefix
from vllama_balancer.routing.request_size import ModelEstimates, measure_generation, with_reply
from vllama_protos.v1 import generation_pb2 as pb

QUESTION = pb.Message(role="user", content="what is it? " * 40)
ANSWER = pb.Message(role="assistant", content="it is a thing " * 100)
NEXT = pb.Message(role="user", content="go on")


def chat(*messages: pb.Message) -> pb.GenerateRequest:
    """A turn of a conversation."""
    return pb.GenerateRequest(chat=pb.Chat(messages=messages))


def blocks(request: pb.GenerateRequest) -> Prefix:
    """The blocks of a request."""
    return measure_generation(request, ModelEstimates()).prefix


def cached_keys(request: pb.GenerateRequest, reply: pb.Message, token_ids: tuple[int, ...] = ()) -> list[int]:
    """The keys that a worker has cached after the request."""
    return [*with_reply(request, measure_generation(request, ModelEstimates()), reply, token_ids).keys]


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        pb.Message(role="assistant", tool_calls=[pb.ToolCall(id="c", name="read", arguments_json='{"a": 1}' * 99)]),
    ],
)
@pytest.mark.parametrize("question", [QUESTION, pb.Message(role="user", content="hi")])
def test_the_next_turn_begins_with_the_reply(question: pb.Message, answer: pb.Message) -> None:
    """All but the block that the next question shares with it, even where the prompt filled no block."""
    keys, turn = cached_keys(chat(question), answer), blocks(chat(question, answer, NEXT))
    assert len(keys) > len(blocks(chat(question)).keys) + 1
    assert keys == turn.keys[: len(keys)]
    assert len(turn.keys) - len(keys) <= 1


def test_a_changed_reply_is_predicted_up_to_the_change() -> None:
    """As the engine's own blocks are."""
    changed = pb.Message(role="assistant", content=ANSWER.content[:700] + "!" + ANSWER.content[700:])
    keys, turn = cached_keys(chat(QUESTION), ANSWER), blocks(chat(QUESTION, changed, NEXT)).keys
    same = sum(one == other for one, other in zip(keys, turn, strict=False))
    assert len(blocks(chat(QUESTION)).keys) < same < len(keys)


def test_after_reasoning_nothing_is_predicted() -> None:
    """Templates leave out the reasoning of earlier turns, so what follows it is computed again."""
    thoughtful = pb.Message(role="assistant", thinking="hm", content=ANSWER.content)
    assert cached_keys(chat(QUESTION), thoughtful) == blocks(chat(QUESTION)).keys


def test_token_ids_continue_with_what_was_generated() -> None:
    """Exactly, as nothing is rendered in between."""
    first, more = tuple(range(100)), tuple(range(1000, 1100))
    keys = cached_keys(pb.GenerateRequest(token_ids=pb.TokenIds(ids=first)), pb.Message(content="?"), more)
    assert keys == blocks(pb.GenerateRequest(token_ids=pb.TokenIds(ids=first + more))).keys
    assert len(keys) == 4 * 200 // BLOCK_BYTES


def test_a_plain_prompt_continues_with_its_text() -> None:
    """For clients that send everything again; with a suffix it is unknown where the reply will be."""
    prompt, reply = "once upon a time " * 20, pb.Message(content="there was a king " * 40)
    assert (
        cached_keys(pb.GenerateRequest(prompt=prompt), reply)
        == blocks(pb.GenerateRequest(prompt=prompt + reply.content)).keys
    )
    infill = pb.GenerateRequest(prompt=prompt, suffix="the end")
    assert cached_keys(infill, reply) == blocks(infill).keys
