"""The fault matrix's client notices every way in which a stream can be damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.faults.load import Load
from tests.faults.stream_check import expected_ids
from vllama_protos.v1 import generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Events = list[generation_pb2.GenerateResponse]

STARTED, MIDDLE, LAST = 0, 4, -1
FOREIGN = generation_pb2.GenerateResponse(delta=generation_pb2.Delta(text=" beef.3", token_ids=[5]))


def whole(request: generation_pb2.GenerateRequest) -> Events:
    """Returns the stream that the simulated engine would send, a token in each delta."""
    tokens = request.sampling.max_tokens
    ids = expected_ids(request.prompt, tokens)
    mark = f"{ids[0] & 0xFFFF:04x}"
    deltas = [generation_pb2.Delta(text=f" {mark}.{index}", token_ids=[id_]) for index, id_ in enumerate(ids)]
    usage = generation_pb2.Usage(prompt_tokens=8, completion_tokens=tokens)
    finished = generation_pb2.Finished(reason=generation_pb2.FINISH_REASON_LENGTH, usage=usage)
    return [
        generation_pb2.GenerateResponse(started=generation_pb2.Started(worker="w")),
        *(generation_pb2.GenerateResponse(delta=delta) for delta in deltas),
        generation_pb2.GenerateResponse(finished=finished),
    ]


def lose(events: Events) -> None:
    del events[MIDDLE]


def double(events: Events) -> None:
    events.insert(MIDDLE, events[MIDDLE])


def replace(events: Events) -> None:
    events[MIDDLE].CopyFrom(FOREIGN)


def never_finish(events: Events) -> None:
    del events[LAST]


def start_twice(events: Events) -> None:
    events.insert(1, events[STARTED])


def never_start(events: Events) -> None:
    del events[STARTED]


def start_late(events: Events) -> None:
    events.insert(1, events.pop(STARTED))


def finish_twice(events: Events) -> None:
    events.append(events[LAST])


def go_on_after_the_end(events: Events) -> None:
    events.append(generation_pb2.GenerateResponse(delta=generation_pb2.Delta(token_ids=[5])))


def double_ids(events: Events) -> None:
    events[MIDDLE].delta.token_ids.extend(list(events[MIDDLE].delta.token_ids))


def lose_ids(events: Events) -> None:
    del events[MIDDLE].delta.token_ids[:]


def foreign_ids(events: Events) -> None:
    events[MIDDLE].delta.token_ids[:] = [5]


def swap_ids(events: Events) -> None:
    first, second = events[MIDDLE].delta.token_ids, events[MIDDLE + 1].delta.token_ids
    first[:], second[:] = list(second), list(first)


def think_aloud(events: Events) -> None:
    events[MIDDLE].delta.thinking = events[MIDDLE].delta.text


def think_instead(events: Events) -> None:
    events[MIDDLE].delta.thinking = events[MIDDLE].delta.text
    events[MIDDLE].delta.text = ""


def abort(events: Events) -> None:
    events[LAST].finished.reason = generation_pb2.FINISH_REASON_ABORTED


def count_wrongly(events: Events) -> None:
    events[LAST].finished.usage.completion_tokens -= 1


class Corrupting(generation_pb2_grpc.GenerationServicer):
    """Answers every generation with a damaged stream."""

    damage: Callable[[Events], None] | None = None

    async def Generate(self, request: generation_pb2.GenerateRequest, context: Any) -> None:
        """Sends it."""
        events = whole(request)
        if self.damage is not None:
            self.damage(events)
        for event in events:
            await context.write(event)


@pytest.fixture
async def corrupting() -> AsyncIterator[tuple[Corrupting, str]]:
    """The service, and its address."""
    server, servicer = grpc.aio.server(), Corrupting()
    generation_pb2_grpc.add_GenerationServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


async def test_a_whole_stream_is_counted_as_whole(corrupting: tuple[Corrupting, str]) -> None:
    """Otherwise the others would show nothing."""
    outcome = await Load(corrupting[1], clients=1, requests=1).run()
    assert outcome.clean, outcome
    assert (outcome.complete, outcome.workers) == (1, {"w": 1})


@pytest.mark.parametrize(
    "damage",
    [
        *(lose, double, replace, never_finish, start_twice, never_start, start_late, finish_twice),
        *(go_on_after_the_end, double_ids, lose_ids, foreign_ids, swap_ids, think_aloud, think_instead),
        *(abort, count_wrongly),
    ],
)
async def test_a_damaged_stream_is_noticed(
    corrupting: tuple[Corrupting, str], damage: Callable[[Events], None]
) -> None:
    """Whatever is damaged, in the order of events, the text, the ids or the end."""
    corrupting[0].damage = damage
    outcome = await Load(corrupting[1], clients=1, requests=1).run()
    assert not outcome.clean
    assert outcome.complete == 0
