"""Recorded requests and replies of every endpoint under /v1.

Each file in tests/golden/openai holds a request, the generation that it must become, the events of
a run, and the reply and the stream that must come of them. `python -m tests.edge.openai.test_golden`
writes the expectations anew, for a person to read before they are committed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from vllama_balancer.edge.body import decode_json, encode_json
from vllama_balancer.edge.openai import chat_reply, chat_request, completions, embeddings, responses_request
from vllama_balancer.edge.openai.handlers import choices_of
from vllama_balancer.edge.openai.reply_fields import ReplyIdentity
from vllama_balancer.edge.openai.responses_reply import ResponseStream
from vllama_balancer.edge.wire.accumulator import Accumulator, event_of
from vllama_balancer.edge.wire.choices import nth_choice
from vllama_protos.v1 import embedding_pb2, generation_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from vllama_balancer.edge.wire.accumulator import Event

    Events = list[tuple[int, Event]]

GOLDEN = Path(__file__).parents[2] / "golden" / "openai"
CASES = sorted(GOLDEN.glob("*.json"))

Run = dict[str, Any]


def _choices(generation: generation_pb2.GenerateRequest, n: int | None) -> list[generation_pb2.GenerateRequest]:
    return [nth_choice(generation, index) for index in range(choices_of(n))]


def _chat(body: bytes, events: Events) -> Run:
    request = decode_json(body, chat_request.ChatRequest)
    choices = _choices(chat_request.to_generation(request), request.n)
    identity = ReplyIdentity("chatcmpl-", "0123", 1700000000, request.model or "")
    logprobs = request.logprobs is True
    stream = chat_reply.ChunkStream(identity, len(choices), logprobs=logprobs, include_usage=request.include_usage)
    chunks = [chunk for choice, event in events for chunk in stream.chunks(choice, event)]
    reply = chat_reply.to_completion(identity, _accumulated(events, len(choices)), logprobs=logprobs)
    return _run(choices, reply, [*chunks, *stream.closing()])


def _completion(body: bytes, events: Events) -> Run:
    request = decode_json(body, completions.CompletionRequest)
    choices = _choices(completions.to_generation(request), request.n)
    identity = ReplyIdentity("cmpl-", "0123", 1700000000, request.model or "")
    echo = completions.prompt_of(request) if request.echo else ""
    logprobs = request.logprobs is not None
    stream = completions.CompletionStream(
        identity, len(choices), echo=echo, logprobs=logprobs, include_usage=request.include_usage
    )
    chunks = [chunk for choice, event in events for chunk in stream.chunks(choice, event)]
    whole = _accumulated(events, len(choices))
    reply = completions.to_completion(identity, whole, echo=echo, logprobs=logprobs)
    return _run(choices, reply, [*chunks, *stream.closing()])


def _response(body: bytes, events: Events) -> Run:
    request = decode_json(body, responses_request.ResponsesRequest)
    generation = responses_request.to_generation(request)
    identity = ReplyIdentity("resp_", "0123", 1700000000, request.model or "")
    stream = ResponseStream(identity, request, now=lambda: 1700000001)
    translated = [each for _, event in events for each in stream.events(event)]
    return _run([generation], stream.completed, translated)


def _embedding(body: bytes, events: Events) -> Run:
    request = decode_json(body, embeddings.EmbeddingsRequest)
    embedding = embeddings.to_embed_request(request)
    vectors = [
        embedding_pb2.Vector(values=[0.5, -1.25, len(text)], prompt_tokens=len(text.split()))
        for text in embedding.inputs
    ]
    items = [
        embeddings.encode_embedding(index, vector, as_base64=request.as_base64) for index, vector in enumerate(vectors)
    ]
    before, after = embeddings.embedding_frame(request.model or "", sum(vector.prompt_tokens for vector in vectors))
    reply = json.loads(before + b",".join(items) + after)
    return _run([embedding], reply, [])


ENDPOINTS: dict[str, Callable[[bytes, Events], Run]] = {
    "chat": _chat,
    "completion": _completion,
    "response": _response,
    "embedding": _embedding,
}


def _accumulated(events: Events, choices: int) -> list[Accumulator]:
    whole = [Accumulator() for _ in range(choices)]
    for choice, event in events:
        whole[choice].add(event)
    return whole


def _run(generations: Sequence[Message], reply: object, stream: Sequence[object]) -> Run:
    return {
        "generations": [MessageToDict(each, preserving_proto_field_name=True) for each in generations],
        "reply": json.loads(encode_json(reply)),
        "stream": [json.loads(encode_json(each)) for each in stream],
    }


def _play(case: dict[str, Any], endpoint: str) -> Run:
    events = [(choice, _event(recorded)) for choice, recorded in case.get("events", [])]
    return ENDPOINTS[endpoint](json.dumps(case["request"]).encode(), events)


def _event(recorded: dict[str, Any]) -> Event:
    event = event_of(ParseDict(recorded, generation_pb2.GenerateResponse()))
    assert event is not None
    return event


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_requests_and_replies_are_as_recorded(path: Path) -> None:
    """A request becomes the recorded generation, and its events the recorded reply and stream."""
    case = json.loads(path.read_text())
    played = _play(case, path.stem.partition("_")[0])
    assert played == {key: case[key] for key in played}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_is_recorded(endpoint: str) -> None:
    """No endpoint is without a recording."""
    assert [path for path in CASES if path.stem.startswith(endpoint)]


if __name__ == "__main__":
    for path in CASES:
        case = json.loads(path.read_text())
        case.update(_play(case, path.stem.partition("_")[0]))
        path.write_text(json.dumps(case, indent=1, ensure_ascii=False) + "\n")
