"""Requests that were aboard crashed workers: innocents are served to their end, poison is refused."""

import asyncio
import contextlib
import time

import pytest

from tests.balancer.conftest import make_request
from tests.balancer.scripted_worker import Script, eventually, text_of
from vllama_balancer.errors import Quarantined
from vllama_balancer.gateway import Call
from vllama_balancer.workers.poison import PROGRESS_SECONDS, UNDERWAY_TOKENS
from vllama_protos.v1 import embedding_pb2

KILLS = 4


class Clock:
    """The workers' clock, which a test can put forward."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead


def pause_all(fleet, tokens):
    """Streams wait after so many tokens in all."""
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=tokens)


def resume(worker, pause_after_tokens):
    """Paused streams of a worker continue, and pause again after so many tokens."""
    paused, worker.go_on = worker.go_on, asyncio.Event()
    worker.script = Script(pause_after_tokens=pause_after_tokens)
    paused.set()


def go_on(fleet):
    """Paused streams continue, and no other is paused."""
    for worker in fleet.workers:
        worker.script = Script()
        worker.go_on.set()


async def victim_of(fleet):
    """Waits until a living worker that is not held runs a stream."""

    def busy():
        return [one for one in fleet.workers if one.running and not one.is_dead and not fleet.pool.find(one.name).held]

    await eventually(busy)
    return busy()[0]


async def read_into(events, fleet, request, call):
    """Reads one generation to its end."""
    async with contextlib.aclosing(fleet.dispatcher.generate(request, call)) as stream:
        async for event in stream:
            events.append(event)


def tokens_of(events):
    """Counts the tokens that have come."""
    return sum(len(event.delta.token_ids) for event in events)


@pytest.mark.parametrize("kills", [2, 3, KILLS])
async def test_a_long_stream_survives_any_number_of_crashes_with_progress_between_them(make_fleet, kills):
    """It is alone on each worker, and so the only suspect each time; progress forgives it."""
    clock, step = Clock(), UNDERWAY_TOKENS + 4
    fleet = await make_fleet(kills + 1, clock=clock, calm_seconds=1000.0)
    pause_all(fleet, step)
    events = []
    task = asyncio.create_task(read_into(events, fleet, make_request(max_tokens=step * KILLS * 2), Call("me")))
    for kill in range(1, kills + 1):
        await eventually(lambda kill=kill: tokens_of(events) == (2 * kill - 1) * step)
        victim = await victim_of(fleet)
        clock.ahead += PROGRESS_SECONDS  # the rest of its output comes a second later
        resume(victim, 2 * kill * step)
        await eventually(lambda kill=kill: tokens_of(events) == 2 * kill * step)
        pause_all(fleet, (2 * kill + 1) * step)
        await victim.die()
    go_on(fleet)
    await task
    assert "".join(event.delta.text for event in events) == text_of(step * KILLS * 2)
    assert events[-1].finished.migrations == kills


async def test_no_request_is_refused_when_a_machine_dies_process_by_process(make_fleet):
    """Requests that wait for their first token meet one dying worker after the other, and then a healthy one."""
    fleet = await make_fleet(5)
    pause_all(fleet, 0)
    survivor = fleet.pool.find("w4")
    survivor.hold("has to be the last one")
    tasks = [asyncio.create_task(fleet.generate(f"question {i}")) for i in range(6)]
    dying = fleet.workers[:4]
    await eventually(lambda: sum(worker.running for worker in dying) == 6)
    for worker in dying:
        await worker.die()
        left = [one for one in dying if not one.is_dead]
        # Those that were aboard arrive at the next worker that dies.
        if left:
            await eventually(lambda left=left: any(worker.running for worker in left))
    survivor.unhold()
    fleet.workers[4].go_on.set()
    assert {reply.text for reply in await asyncio.gather(*tasks)} == {text_of(8)}
    assert fleet.value("vllama_quarantined_requests_total") == 0


async def crash_twice(fleet, task_of):
    """Starts a request and lets the first two workers crash that get it; returns its task."""
    pause_all(fleet, 0)
    task = asyncio.create_task(task_of)
    for _ in range(2):
        await (await victim_of(fleet)).die()
    return task


async def test_a_suspect_of_two_crashes_is_tried_alone_and_served(make_fleet):
    """Nothing else is placed beside it until it is far into its output; then the worker is open again."""
    fleet = await make_fleet(3)
    task = await crash_twice(fleet, fleet.generate(max_tokens=2 * UNDERWAY_TOKENS))
    (left,) = [worker for worker in fleet.workers if not worker.is_dead]
    await eventually(lambda: left.running == 1)
    other = asyncio.create_task(fleet.generate("other"))
    await eventually(lambda: fleet.dispatcher.waiting == 1)
    resume(left, UNDERWAY_TOKENS - 1)
    await eventually(lambda: fleet.pool.find(left.name).incarnation.suspects == 0)
    assert fleet.dispatcher.waiting == 1
    go_on(fleet)
    assert (await task).text == text_of(2 * UNDERWAY_TOKENS)
    assert (await other).text == text_of(8)
    assert fleet.value("vllama_quarantined_requests_total") == 0


async def test_a_trial_waits_until_no_worker_has_crashed_for_a_while(make_fleet):
    """By the workers' clock."""
    clock = Clock()
    fleet = await make_fleet(3, clock=clock, calm_seconds=1000.0)
    task = await crash_twice(fleet, fleet.generate())
    await eventually(lambda: fleet.dispatcher.waiting == 1)
    (left,) = [worker for worker in fleet.workers if not worker.is_dead]
    left.go_on.set()
    assert (await fleet.generate("other")).text == text_of(8)
    assert not task.done()
    assert [request.prompt for request in left.requests] == ["other"]
    clock.ahead += 1000.0
    fleet.pool.changes.increment()
    assert (await task).text == text_of(8)


async def test_a_trial_waits_for_the_prompts_of_its_worker_and_keeps_new_ones_away(make_fleet):
    """A stream with output may stay: the suspect would be blamed before it."""
    fleet = await make_fleet(3)
    streaming = []
    for worker in fleet.workers[:2]:
        fleet.pool.find(worker.name).hold("for the requests of the third")
    pause_all(fleet, 1)
    with_output = asyncio.create_task(read_into(streaming, fleet, make_request(), Call("me")))
    await eventually(lambda: tokens_of(streaming) == 1)
    fleet.workers[2].script = Script(pause_after_tokens=0)
    without = asyncio.create_task(fleet.generate())
    await eventually(lambda: fleet.workers[2].running == 2)
    for worker in fleet.workers[:2]:
        fleet.pool.find(worker.name).unhold()
    fleet.pool.find("w2").hold("until two have crashed")
    task = await crash_twice(fleet, fleet.generate("suspect"))
    fleet.pool.find("w2").unhold()
    incarnation = fleet.pool.find("w2").incarnation
    await eventually(lambda: incarnation.load.is_reserved)
    assert "suspect" not in [request.prompt for request in fleet.workers[2].requests]
    go_on(fleet)
    assert (await task).text == text_of(8)
    await asyncio.gather(with_output, without)
    assert not incarnation.load.is_reserved


async def test_a_suspect_that_leaves_opens_the_worker_that_was_reserved_for_it(make_fleet):
    """Those that wait behind it are served."""
    fleet = await make_fleet(3)
    fleet.pool.find("w2").hold("until two have crashed")
    task = await crash_twice(fleet, fleet.generate("suspect"))
    fleet.pool.find("w2").unhold()
    stream = asyncio.create_task(fleet.generate())
    await eventually(lambda: fleet.pool.find("w2").incarnation.load.is_reserved)
    other = asyncio.create_task(fleet.generate("other"))
    await eventually(lambda: fleet.dispatcher.waiting == 2)
    task.cancel()
    await eventually(lambda: fleet.dispatcher.waiting == 0)
    go_on(fleet)
    assert (await other).text == text_of(8)
    await stream


async def test_poison_is_alone_when_it_crashes_its_last_worker(make_fleet):
    """Streams that run elsewhere do not notice."""
    fleet = await make_fleet(4)
    for worker in fleet.workers:
        worker.script = Script(poison="mandrake", pause_after_tokens=UNDERWAY_TOKENS + 1)
    tasks = [asyncio.create_task(fleet.generate(max_tokens=40)) for _ in range(8)]
    await eventually(lambda: sum(worker.running for worker in fleet.workers) == 8)
    await eventually(lambda: not any(worker.incarnation.load.prompt_tokens for worker in fleet.pool.workers()))
    with pytest.raises(Quarantined, match="killed 3 workers"):
        await fleet.generate("mandrake")
    go_on(fleet)
    assert {reply.text for reply in await asyncio.gather(*tasks)} == {text_of(40)}
    assert fleet.value("vllama_quarantined_requests_total") == 1


async def test_poison_embeddings_are_quarantined_too(make_fleet):
    """The client gets an error that it does not retry, and not one worker more crashes."""
    fleet = await make_fleet(4)
    for worker in fleet.workers:
        worker.script = Script(poison="mandrake")
    with pytest.raises(Quarantined, match="killed 3 workers"):
        await fleet.dispatcher.embed(embedding_pb2.EmbedRequest(model="m", inputs=["mandrake"]), Call("me"))
    assert sum(worker.poisoned for worker in fleet.workers) == 3


async def test_a_cancelled_request_that_may_still_burn_the_worker_is_blamed_for_its_crash(make_fleet):
    """Requests behind it that were never blamed before are exonerated."""
    fleet = await make_fleet(1)
    pause_all(fleet, 0)
    gone = asyncio.create_task(fleet.generate("a grammar that compiles for ever", request_id="culprit"))
    await eventually(lambda: fleet.workers[0].running == 1)
    gone.cancel()
    await eventually(lambda: fleet.leases == 0)
    behind = asyncio.create_task(fleet.generate("innocent"))
    await eventually(lambda: fleet.leases == 1 and fleet.workers[0].running >= 1)
    incarnation = fleet.pool.find("w0").incarnation
    (lease,) = incarnation.leases
    await fleet.workers[0].die()
    await eventually(lambda: incarnation.is_blame_assigned)
    assert incarnation.cancelled[0].is_blamed
    assert not lease.is_blamed
    go_on(fleet)
    await fleet.workers[0].start()
    assert (await behind).text == text_of(8)


async def test_a_cancelled_request_is_forgotten_when_a_later_one_is_far_into_its_output(make_fleet):
    """The worker has shown that it ended that work."""
    fleet = await make_fleet(1)
    pause_all(fleet, 0)
    gone = asyncio.create_task(fleet.generate())
    await eventually(lambda: fleet.workers[0].running == 1)
    gone.cancel()
    await eventually(lambda: fleet.leases == 0)
    incarnation = fleet.pool.find("w0").incarnation
    assert len(incarnation.cancelled) == 1
    go_on(fleet)
    await fleet.generate(max_tokens=UNDERWAY_TOKENS - 1)
    assert len(incarnation.cancelled) == 1
    await fleet.generate(max_tokens=UNDERWAY_TOKENS)
    assert not incarnation.cancelled


async def test_requests_that_ended_or_were_never_sent_are_not_remembered(make_fleet):
    """Only work that may go on without a client."""
    fleet = await make_fleet(1)
    await fleet.generate(max_tokens=0)
    pause_all(fleet, 1)
    started = asyncio.create_task(fleet.generate())
    incarnation = fleet.pool.find("w0").incarnation
    await eventually(lambda: any(lease.produced for lease in incarnation.leases))
    started.cancel()
    await eventually(lambda: fleet.leases == 0)
    assert not incarnation.cancelled
