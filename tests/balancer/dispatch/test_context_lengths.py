"""Workers of one model with contexts of different lengths, as cards of different sizes give them."""

import pytest

from tests.balancer.scripted_worker import Script, text_of
from vllama_balancer.errors import InvalidRequest
from vllama_balancer.gateway import Call
from vllama_protos.v1 import embedding_pb2

TOO_LONG = InvalidRequest("the prompt has 999 tokens; the context has 500", reason="CONTEXT_TOO_LONG", field="prompt")


async def contexts(make_fleet, *lengths):
    """A fleet of one model whose workers have contexts of these lengths."""
    fleet = await make_fleet(len(lengths))
    for number, length in enumerate(lengths):
        fleet.pool.find(f"w{number}").description.context_length = length
    return fleet


async def test_a_prompt_too_long_for_one_worker_goes_to_one_with_a_longer_context(make_fleet):
    """Its refusal by the shorter ones is not final, and counts as no failure."""
    fleet = await contexts(make_fleet, 500, 500, 500, 500, 1000)
    for worker in fleet.workers[:4]:
        worker.script = Script(always=TOO_LONG)
    for _ in range(8):
        assert (await fleet.generate()).text == text_of(8)
    assert sum(len(worker.requests) for worker in fleet.workers[:4]) <= 8


async def test_a_prompt_too_long_for_all_workers_is_refused_in_the_words_of_the_longest(make_fleet):
    """Each length is tried once at most; workers of unknown length count as the one that refused."""
    fleet = await contexts(make_fleet, 500, 1000, 0)
    fleet.workers[0].script = Script(always=TOO_LONG)
    fleet.workers[1].script = Script(always=InvalidRequest("the context has 1000", reason="CONTEXT_TOO_LONG"))
    fleet.workers[2].script = Script(always=InvalidRequest("no idea", reason="CONTEXT_TOO_LONG"))
    for _ in range(8):
        with pytest.raises(InvalidRequest, match=r"has 1000|no idea"):
            await fleet.generate()
    assert max(len(worker.requests) for worker in fleet.workers) <= 8


async def test_a_prompt_that_looks_too_long_avoids_the_shorter_contexts(make_fleet):
    """As long as a longer one is there; if all look too short, any is tried."""
    fleet = await contexts(make_fleet, 500, 1000)
    for _ in range(4):
        await fleet.generate("x" * 3200)
    assert [len(worker.requests) for worker in fleet.workers] == [0, 4]
    await fleet.generate("x" * 32000)
    assert sum(len(worker.requests) for worker in fleet.workers) == 5


async def test_an_embedding_too_long_for_one_worker_goes_to_another(make_fleet):
    """The same rule holds for calls with one answer."""
    fleet = await contexts(make_fleet, 500, 1000)
    fleet.workers[0].script = Script(always=TOO_LONG)
    for _ in range(4):
        reply = await fleet.dispatcher.embed(embedding_pb2.EmbedRequest(model="m", inputs=["x"]), Call("me"))
        assert len(reply.vectors) == 1
    assert fleet.value("vllama_attempt_failures_total", worker="w0", kind="rejected") > 0
