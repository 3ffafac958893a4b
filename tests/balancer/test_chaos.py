"""Many requests over workers that die, stumble, leave and come back, in any order: nothing wrong, nothing left."""

import asyncio
import random

from tests.balancer.scripted_worker import Script, busy, draining, eventually, fault, text_of
from vllama_balancer.errors import BalancerError
from vllama_protos.v1 import generation_pb2

REQUESTS = 150


async def trouble(fleet, rng, stop):
    """Does harm to one worker after the other, and never to all of them at once."""
    while not stop.is_set():
        worker = rng.choice(fleet.workers)
        harm = rng.randrange(4)
        if harm == 0:
            await worker.die()
            worker.script = Script()
            await worker.start()
        elif harm == 1:
            worker.script = Script(errors=[rng.choice([fault(), busy(0.01), draining()]) for _ in range(3)])
        elif harm == 2:
            worker.script = Script(error_after_tokens=(rng.randrange(8), fault()))
        else:
            worker.script = Script(tokens_per_delta=rng.choice([1, 2, 3]))
        await eventually(lambda worker=worker: not fleet.pool.find(worker.name).unavailable or stop.is_set())
        worker.script = Script()


async def test_whatever_befalls_the_workers_every_answer_is_exact(make_fleet):
    """Resumed or replayed, every text that ends is the undisturbed one; clients that leave leave nothing."""
    fleet = await make_fleet(4, max_streams=4)
    rng, stop = random.Random(20), asyncio.Event()
    harm = asyncio.create_task(trouble(fleet, rng, stop))
    texts, errors, gate = [], [], asyncio.Semaphore(12)

    async def ask(number):
        sampling = generation_pb2.Sampling(seed=5, temperature=0.7) if number % 3 == 0 else None
        async with gate:
            try:
                reply = await fleet.generate(f"question {number}", max_tokens=12, sampling=sampling)
                texts.append((reply.text, "5" if number % 3 == 0 else ""))
            except BalancerError as error:
                errors.append(error)

    tasks = [asyncio.create_task(ask(number)) for number in range(REQUESTS)]
    for task in rng.sample(tasks, REQUESTS // 5):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    stop.set()
    await harm
    assert all(text == text_of(12, salt) for text, salt in texts)
    # What may still fail is a request that met three failures in a row without a token between them.
    assert len(errors) <= 3
    assert len(texts) + len(errors) >= REQUESTS * 4 // 5


async def test_retries_stay_within_the_budget_while_half_of_the_workers_fail(make_fleet):
    """Failing workers do not multiply the load on the others."""
    fleet = await make_fleet(4)
    rng = random.Random(3)
    for worker in fleet.workers[:2]:
        worker.script = Script(errors=[fault() if rng.random() < 0.5 else None for _ in range(400)])
    gate, failed = asyncio.Semaphore(8), []

    async def ask():
        async with gate:
            try:
                assert (await fleet.generate()).text == text_of(8)
            except BalancerError as error:
                failed.append(error)

    await asyncio.gather(*(ask() for _ in range(200)))
    asked = sum(request.prompt == "hello" for worker in fleet.workers for request in worker.requests)
    assert asked - 200 == fleet.value("vllama_retries_total")
    assert len(failed) <= 2
    assert fleet.dispatcher._admission._placer._budget.running == 0


async def test_a_watch_stream_that_stops_attracts_no_herd(make_fleet):
    """A worker that looks idle in its last report gets its share, and no more."""
    fleet = await make_fleet(4, policy="expected-completion")
    fleet.workers[0].is_silent = True
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=4)
    tasks = [asyncio.create_task(fleet.generate(f"{i} " * 300)) for i in range(16)]
    await eventually(lambda: sum(worker.running for worker in fleet.workers) == 16)
    assert [worker.running for worker in fleet.workers] == [4, 4, 4, 4]
    for worker in fleet.workers:
        worker.go_on.set()
    await asyncio.gather(*tasks)
