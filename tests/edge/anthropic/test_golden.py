"""Recorded requests and replies of /v1/messages.

Each file in tests/golden/anthropic holds a request, the generation that it must become, the events
of a run, and the reply and the stream that must come of them.
`python -m tests.edge.anthropic.test_golden` writes the expectations anew, for a person to read
before they are committed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from vllama_balancer.edge.anthropic.messages_reply import MessageIdentity, MessageStream, to_message
from vllama_balancer.edge.anthropic.messages_request import MessagesRequest, to_generation
from vllama_balancer.edge.body import decode_json
from vllama_balancer.edge.wire.accumulator import Accumulator, event_of
from vllama_protos.v1 import generation_pb2

CASES = sorted((Path(__file__).parents[2] / "golden" / "anthropic").glob("*.json"))


def _play(case: dict[str, Any]) -> dict[str, Any]:
    request = decode_json(json.dumps(case["request"]).encode(), MessagesRequest)
    identity = MessageIdentity("msg_0123", request.model or "")
    stream, whole = MessageStream(identity), Accumulator()
    translated = []
    for recorded in case["events"]:
        event = event_of(ParseDict(recorded, generation_pb2.GenerateResponse()))
        assert event is not None
        translated += stream.events(event)
        whole.add(event)
    generation = MessageToDict(to_generation(request), preserving_proto_field_name=True)
    return {"generation": generation, "reply": to_message(identity, whole), "stream": translated}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_requests_and_replies_are_as_recorded(path: Path) -> None:
    """A request becomes the recorded generation, and its events the recorded message and stream."""
    case = json.loads(path.read_text())
    played = _play(case)
    assert played == {key: case[key] for key in played}


def test_there_are_recordings() -> None:
    """The directory of recordings is found."""
    assert len(CASES) >= 4


if __name__ == "__main__":
    for path in CASES:
        case = json.loads(path.read_text())
        case.update(_play(case))
        path.write_text(json.dumps(case, indent=1, ensure_ascii=False) + "\n")
