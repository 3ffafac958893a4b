"""One request over the workers: placed, relayed, retried, released."""

import asyncio
from dataclasses import replace

import pytest

from tests.balancer.conftest import DRAINING, FAILED, QUICK_HEALTH, make_request
from tests.balancer.scripted_worker import Script, busy, draining, eventually, fault, text_of
from vllama_balancer.errors import (
    DeadlineExceeded,
    EngineFault,
    InvalidRequest,
    ModelNotFound,
    NoWorker,
    Quarantined,
    QueueFull,
    WorkerLost,
)
from vllama_balancer.fleet.events import Removed
from vllama_balancer.gateway import Call
from vllama_balancer.names import model_key
from vllama_protos.v1 import embedding_pb2, generation_pb2, worker_pb2


async def test_a_generation_is_relayed_as_the_worker_sends_it(make_fleet):
    """`started`, every delta, one `finished`."""
    fleet = await make_fleet()
    reply = await fleet.generate(max_tokens=5)
    assert reply.text == text_of(5)
    assert len(reply.started) == 1
    assert reply.finished.usage.completion_tokens == 5
    assert reply.finished.migrations == 0


async def test_the_reply_is_expected_in_the_cache_of_its_worker(make_fleet):
    """A request with the same prompt and reply goes to the same worker, and both are predicted as cached."""
    fleet = await make_fleet(4, policy="expected-completion")
    prompt = "a beginning " * 30
    first = await fleet.generate(prompt, max_tokens=400)
    second = await fleet.generate(prompt + first.text + " and now?")
    assert second.started[0].worker == first.started[0].worker
    predicted_cached_tokens = fleet.value("vllama_cached_tokens_predicted_total")
    assert predicted_cached_tokens > 0.8 * len(prompt + first.text) / 4


async def test_the_call_carries_the_worker_and_the_reason(make_fleet):
    """The placement is filled in."""
    fleet = await make_fleet(1)
    call = Call("me")
    await fleet.generate(call=call)
    assert (call.placement.worker, call.placement.reason) == ("w0", "least-load")


async def test_the_request_names_the_model_as_the_worker_does(make_fleet):
    """Whatever the client's spelling."""
    fleet = await make_fleet(1)
    await fleet.generate(model="m")
    assert fleet.workers[0].requests[0].model == "m:latest"


async def test_a_model_that_the_caller_has_looked_up_is_not_looked_up_again(make_fleet, monkeypatch):
    """An alias is served by the workers of its target."""
    fleet = await make_fleet(1)
    found = fleet.dispatcher.find("m")
    monkeypatch.setattr(fleet.dispatcher, "_catalog", None)
    assert (await fleet.generate(call=Call("me", model=found))).text == text_of(8)
    alias = replace(found, name="alias:latest", target="m:latest")
    assert (await fleet.generate(model="alias", call=Call("me", model=alias))).text == text_of(8)
    assert fleet.value("vllama_requests_total", model="m:latest", outcome="ok") == 2


async def test_an_unknown_model_is_not_found(make_fleet):
    """Before anything is queued."""
    fleet = await make_fleet(1)
    with pytest.raises(ModelNotFound, match="'nope' not found"):
        await fleet.generate(model="nope")


async def test_closing_the_generator_ends_the_generation_on_the_worker(make_fleet):
    """A disconnected client frees its lease and the worker's stream."""
    fleet = await make_fleet(1)
    fleet.workers[0].script = Script(pause_after_tokens=2)
    events = fleet.dispatcher.generate(make_request(), Call("me"))
    for _ in range(3):
        await anext(events)
    assert fleet.leases == 1
    await events.aclose()
    assert fleet.leases == 0
    await eventually(lambda: fleet.workers[0].running == 0)


async def test_cancelling_the_caller_releases_the_lease(make_fleet):
    """As when a client disconnects in the middle."""
    fleet = await make_fleet(1)
    fleet.workers[0].script = Script(pause_after_tokens=2)
    task = asyncio.create_task(fleet.generate())
    await eventually(lambda: fleet.workers[0].running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fleet.leases == 0
    await eventually(lambda: fleet.workers[0].running == 0)


async def test_prompt_tokens_count_only_until_the_first_token(make_fleet):
    """Decoding streams have no prefill left; their KV reservation stays."""
    fleet = await make_fleet(1)
    fleet.workers[0].script = Script(pause_after_tokens=1)
    events = fleet.dispatcher.generate(make_request("x" * 400), Call("me"))
    load = fleet.pool.workers()[0].incarnation.load
    assert (await anext(events)).HasField("started")
    assert load.prompt_tokens == 400
    await anext(events)
    assert load.prompt_tokens == 0
    assert load.kv_tokens > 400
    await events.aclose()


async def test_a_refused_request_is_retried_elsewhere(make_fleet):
    """A draining worker has not touched it and is not penalised."""
    fleet = await make_fleet(2)
    for worker in fleet.workers[:1]:
        worker.script = Script(always=draining())
    for _ in range(4):
        assert (await fleet.generate()).text == text_of(8)
    assert fleet.pool.find("w0").breaker.ejections_total == 0


async def test_a_worker_that_sleeps_refuses_and_is_not_blamed(make_fleet):
    """It has not touched the request, and the attempt does not count."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(always=NoWorker("the model is asleep", reason="WORKER_ASLEEP"))
    for _ in range(4):
        assert (await fleet.generate()).text == text_of(8)
    assert fleet.pool.find("w0").breaker.ejections_total == 0
    assert fleet.value("vllama_attempt_failures_total", worker="w0", kind="refused") >= 1
    assert fleet.value("vllama_attempt_failures_total", worker="w0", kind="lost") == 0


async def test_a_worker_that_refuses_as_it_drains_is_not_asked_again(make_fleet):
    """Before its next report comes."""
    fleet = await make_fleet(2)
    refusing, other = fleet.workers
    refusing.is_silent = True
    refusing.script = Script(always=draining())
    fleet.pool.find(other.name).hold("until the first has refused")
    task = asyncio.create_task(fleet.generate())
    await eventually(lambda: fleet.pool.find(refusing.name).unavailable)
    fleet.pool.find(other.name).unhold()
    assert (await task).text == text_of(8)
    for _ in range(6):
        await fleet.generate()
    assert len(refusing.requests) == 1


async def test_faults_with_successes_between_them_eject_no_worker(make_fleet):
    """Only failures in a row do."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(errors=[fault(), None] * 20)
    for _ in range(20):
        assert (await fleet.generate()).text == text_of(8)
    assert len(fleet.workers[0].requests) > 5
    assert fleet.pool.find("w0").breaker.ejections_total == 0


async def test_prompts_that_were_cut_do_not_count_for_the_size_of_a_token(make_fleet):
    """Neither those that lost turns nor those that fill the context."""
    fleet = await make_fleet(1)
    fleet.pool.find("w0").description.context_length = 1000
    estimates = fleet.dispatcher._estimates.of(model_key("m"))
    before = estimates.bytes_per_token
    await fleet.generate("x" * 950)
    assert estimates.bytes_per_token == before
    await fleet.generate("x" * 800)
    assert estimates.bytes_per_token < before


async def test_a_fault_before_the_first_token_is_retried_on_another_worker(make_fleet):
    """The client gets one undisturbed answer."""
    fleet = await make_fleet(2)
    for worker in fleet.workers:
        worker.script = Script(errors=[fault()] if worker is fleet.workers[0] else [])
    replies = [await fleet.generate() for _ in range(4)]
    assert {reply.text for reply in replies} == {text_of(8)}
    assert {reply.finished.migrations for reply in replies} == {0}
    assert fleet.value("vllama_retries_total") == 1


async def test_a_request_is_tried_three_times_at_most(make_fleet):
    """Then the last error is returned."""
    fleet = await make_fleet(4)
    for worker in fleet.workers:
        worker.script = Script(always=fault("out of luck"))
    with pytest.raises(EngineFault, match="out of luck"):
        await fleet.generate()
    assert sum(len(worker.requests) for worker in fleet.workers) == 3
    assert max(len(worker.requests) for worker in fleet.workers) == 1


async def test_a_wrong_request_is_not_retried_and_counts_against_no_worker(make_fleet):
    """Every worker would reject it."""
    fleet = await make_fleet(2)
    for worker in fleet.workers:
        worker.script = Script(always=InvalidRequest("top_p is 7: use (0, 1]", field="top_p"))
    for _ in range(8):
        with pytest.raises(InvalidRequest, match="top_p is 7") as caught:
            await fleet.generate()
        assert caught.value.field == "top_p"
    assert sum(len(worker.requests) for worker in fleet.workers) == 8
    assert all(not worker.unavailable for worker in fleet.pool.workers())


async def test_a_full_worker_is_paused_and_not_ejected(make_fleet):
    """The request goes elsewhere; a full queue is not a fault."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(always=busy(0.05))
    for _ in range(6):
        assert (await fleet.generate()).text == text_of(8)
    assert fleet.pool.find("w0").breaker.ejections_total == 0
    await fleet.all_available()


async def test_a_request_waits_while_the_only_worker_is_full(make_fleet):
    """It is served as soon as the worker accepts it."""
    fleet = await make_fleet(1)
    fleet.workers[0].script = Script(errors=[busy(0.01), busy(0.01), busy(0.01), busy(0.01)])
    assert (await fleet.generate()).text == text_of(8)
    assert len(fleet.workers[0].requests) == 5


async def test_a_worker_lost_in_prefill_costs_the_client_nothing(make_fleet):
    """The request starts again on another worker."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(die_after_tokens=0)
    replies = await asyncio.gather(*(fleet.generate() for _ in range(6)))
    assert {reply.text for reply in replies} == {text_of(8)}
    assert all(len(reply.started) == 1 for reply in replies)


async def test_a_request_that_was_never_sent_is_not_to_blame(make_fleet):
    """It waits for the liveness check of one worker after the other, and they hang as well."""
    fleet = await make_fleet(4)
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=0)
    task = asyncio.create_task(fleet.generate(max_tokens=6))
    await eventually(lambda: sum(worker.running for worker in fleet.workers) == 1)
    hung = [next(worker for worker in fleet.workers if worker.running)]
    others = [worker for worker in fleet.workers if worker is not hung[0]]
    for worker in others:
        worker.answers_describe = False
    fleet.pool.find(hung[0].name).mark_hung("for the test")
    for _ in range(2):
        await eventually(lambda: any(fleet.pool.find(worker.name).lease_count for worker in others))
        worker = next(worker for worker in others if fleet.pool.find(worker.name).lease_count)
        others.remove(worker)
        fleet.pool.find(worker.name).mark_hung("for the test")
        hung.append(worker)
    others[0].script, others[0].answers_describe = Script(), True
    assert (await task).text == text_of(6)
    asked = [request.request_id for worker in hung[1:] for request in worker.requests]
    assert [name for name in asked if not name.startswith("probe-")] == []
    for worker in hung:
        worker.answers_describe = True
        worker.go_on.set()


async def test_requests_of_a_dead_worker_share_one_liveness_check_of_the_next(make_fleet):
    """Its answers may be slow, and one is enough; a client that disconnects meanwhile does not cancel it."""
    fleet = await make_fleet(2)
    dying, survivor = fleet.workers
    dying.script = Script(pause_after_tokens=2)
    fleet.pool.find(survivor.name).description.device.kind = "cpu"  # it is given time to answer
    fleet.pool.find(survivor.name).hold("for the test")
    tasks = [asyncio.create_task(fleet.generate()) for _ in range(5)]
    # With a first token no request is a suspect: suspects would be placed one after the other.
    await eventually(lambda: sum(lease.produced for lease in fleet.pool.find(dying.name).incarnation.leases) == 5)
    fleet.pool.find(survivor.name).unhold()
    survivor.answers_describe, asked = False, survivor.describes
    await dying.die()
    await eventually(lambda: fleet.pool.find(survivor.name).lease_count == 5 and survivor.describes > asked)
    tasks.pop(0).cancel()
    survivor.answers_describe = True
    assert {reply.text for reply in await asyncio.gather(*tasks)} == {text_of(8)}
    assert survivor.describes == asked + 1


async def test_a_survivor_on_busy_processors_may_take_its_time_to_answer(make_fleet):
    """It has more load since its neighbour died, and must not be ejected as well."""
    fleet = await make_fleet(2)
    dying, busy_one = fleet.workers
    dying.script = Script(die_after_tokens=3)
    fleet.pool.find(dying.name).hold("for the test")
    survivor = fleet.pool.find(busy_one.name)
    survivor.description.device.kind = "cpu"
    survivor.hold("for the test")
    fleet.pool.find(dying.name).unhold()
    busy_one.answers_describe, asked = False, busy_one.describes
    task = asyncio.create_task(fleet.generate(max_tokens=6))
    await eventually(lambda: dying.is_dead)
    survivor.unhold()
    await eventually(lambda: busy_one.describes > asked)
    await asyncio.sleep(1.5 * QUICK_HEALTH.answer_seconds)
    assert survivor.unavailable == ""
    busy_one.answers_describe = True
    reply = await task
    assert (reply.text, reply.finished.migrations) == (text_of(6), 1)


async def test_a_worker_lost_in_decode_is_continued_without_a_seam(make_fleet):
    """No text is lost or repeated; the next worker gets exactly the delivered tokens."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(die_after_tokens=5)
    replies = await asyncio.gather(*(fleet.generate(max_tokens=20) for _ in range(6)))
    assert {reply.text for reply in replies} == {text_of(20)}
    moved = [reply for reply in replies if reply.finished.migrations]
    assert moved
    assert {reply.finished.usage.completion_tokens for reply in replies} == {20}
    resumed = [request for request in fleet.workers[1].requests if request.resume_token_ids]
    # A stream that had started without a token moves as well, with nothing to resume.
    assert 0 < len(resumed) <= len(moved)
    assert all(
        list(request.resume_token_ids) == [1000 + i for i in range(len(request.resume_token_ids))]
        for request in resumed
    )
    assert fleet.value("vllama_migrations_total") == len(resumed)


async def test_a_stream_that_breaks_with_a_fault_is_continued(make_fleet):
    """An engine's failure in the middle of one stream."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(error_after_tokens=(3, fault()))
    replies = [await fleet.generate(max_tokens=10) for _ in range(3)]
    assert {reply.text for reply in replies} == {text_of(10)}


async def test_a_worker_that_leaves_hands_its_streams_over(make_fleet):
    """ABORTED ends the worker's part, not the client's stream."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(leave_after_tokens=4)
    replies = [await fleet.generate(max_tokens=10) for _ in range(3)]
    assert {reply.text for reply in replies} == {text_of(10)}
    assert {reply.finished.reason for reply in replies} == {generation_pb2.FINISH_REASON_LENGTH}
    assert fleet.pool.find("w0").breaker.ejections_total == 0


async def test_a_stream_that_ends_without_finished_is_continued(make_fleet):
    """Truncation is never passed on as an end."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(end_early=True)
    replies = [await fleet.generate(max_tokens=6) for _ in range(3)]
    assert {reply.text for reply in replies} == {text_of(6)}


async def test_a_removed_worker_hands_its_streams_over(make_fleet):
    """The fleet source removes it while it still streams."""
    fleet = await make_fleet(2)
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=3)
    task = asyncio.create_task(fleet.generate(max_tokens=6))
    await eventually(lambda: fleet.leases == 1 and sum(worker.running for worker in fleet.workers) == 1)
    name = next(worker.name for worker in fleet.pool.workers() if worker.lease_count)
    for worker in fleet.workers:
        worker.go_on.set()
        worker.script = Script()
    fleet.pool.apply(Removed(name))
    reply = await task
    assert reply.text == text_of(6)


async def test_a_seeded_sampled_stream_is_replayed_and_checked(make_fleet):
    """The state of its random stream cannot be resumed; the delivered part is dropped."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(die_after_tokens=5)
    fleet.workers[1].script = Script(tokens_per_delta=3)
    sampling = generation_pb2.Sampling(seed=42, temperature=0.8)
    replies = await asyncio.gather(*(fleet.generate(max_tokens=10, sampling=sampling) for _ in range(4)))
    assert {reply.text for reply in replies} == {text_of(10, "42")}
    assert {tuple(reply.token_ids) for reply in replies} == {tuple(range(1000, 1010))}
    assert any(reply.finished.migrations for reply in replies)
    assert not any(request.resume_token_ids for request in fleet.workers[1].requests)


async def test_a_replay_that_differs_ends_with_an_error(make_fleet):
    """Never with inconsistent text."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(die_after_tokens=5)
    fleet.workers[1].script = Script(salt="other")
    sampling = generation_pb2.Sampling(seed=42, temperature=0.8)
    results = await asyncio.gather(
        *(fleet.generate(max_tokens=10, sampling=sampling) for _ in range(4)), return_exceptions=True
    )
    errors = [result for result in results if isinstance(result, WorkerLost)]
    assert errors
    assert all("did not reproduce" in str(error) for error in errors)


async def test_a_replay_that_ends_early_ends_with_an_error(make_fleet):
    """The client has more than the other worker generated: that is no end of its stream."""
    fleet = await make_fleet(2)
    first, second = fleet.workers
    fleet.pool.find(second.name).hold("until the first has died")
    first.script = Script(pause_after_tokens=6)
    sampling = generation_pb2.Sampling(seed=42, temperature=0.8)
    task = asyncio.create_task(fleet.generate(max_tokens=10, sampling=sampling))
    await eventually(lambda: fleet.pool.find(first.name).incarnation.leases and first.running)
    second.script = Script(finish_after_tokens=3)
    fleet.pool.find(second.name).unhold()
    await eventually(lambda: first.delivered == 6)
    await first.die()
    with pytest.raises(WorkerLost, match="did not reproduce"):
        await task


async def test_a_stream_that_cannot_be_continued_counts_against_no_worker(make_fleet):
    """The client gets the error; the survivors stay in."""
    fleet = await make_fleet(2)
    fault_of = EngineFault("cannot be continued", reason="CANNOT_CONTINUE")
    for worker in fleet.workers:
        worker.script = Script(always=fault_of)
    for _ in range(8):
        with pytest.raises(EngineFault, match="cannot be continued"):
            await fleet.generate()
    assert sum(len(worker.requests) for worker in fleet.workers) == 8
    assert all(not worker.unavailable for worker in fleet.pool.workers())


async def test_a_request_that_every_engine_aborts_is_tried_three_times(make_fleet):
    """It does not go round for ever; output between the attempts would allow more."""
    fleet = await make_fleet(4)
    for worker in fleet.workers:
        worker.script = Script(leave_after_tokens=0)
    with pytest.raises(WorkerLost, match="left before"):
        await fleet.generate()
    assert sum(len(worker.requests) for worker in fleet.workers) == 3


async def test_a_guided_stream_gets_a_seed_so_that_it_can_be_replayed(make_fleet):
    """Its grammar's state cannot be resumed, and without a seed it could not be reproduced."""
    fleet = await make_fleet(2)
    await fleet.generate(output_format=generation_pb2.OutputFormat(json_object=True))
    asked = [request for worker in fleet.workers for request in worker.requests]
    assert asked[0].sampling.HasField("seed")


async def test_poison_kills_two_workers_and_one_alone(make_fleet):
    """Then the request is quarantined, and the others continue."""
    fleet = await make_fleet(4)
    for worker in fleet.workers:
        worker.script = Script(poison="mandrake")
    with pytest.raises(Quarantined, match="killed 3 workers, the last one alone"):
        await fleet.generate("a mandrake")
    assert sum(len(worker.requests) for worker in fleet.workers) == 3
    assert (await fleet.generate()).text == text_of(8)
    assert fleet.value("vllama_quarantined_requests_total") == 1


async def test_no_request_is_blamed_when_the_workers_of_a_machine_die_one_after_the_other(make_fleet):
    """A request without a token that moves from the first to the second has crashed neither."""
    fleet = await make_fleet(3)
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=0)
    doomed, survivor = fleet.workers[:2], fleet.workers[2]
    fleet.pool.find("w2").hold("has to be the last one")
    task = asyncio.create_task(fleet.generate())
    await eventually(lambda: sum(worker.running for worker in doomed) == 1)
    first, second = sorted(doomed, key=lambda worker: -worker.running)
    await first.die()
    await eventually(lambda: fleet.pool.find(second.name).lease_count == 1)
    await second.die()
    survivor.go_on.set()
    fleet.pool.find("w2").unhold()
    assert (await task).text == text_of(8)
    assert fleet.value("vllama_quarantined_requests_total") == 0


async def test_a_suspect_whose_next_worker_is_removed_meanwhile_continues_elsewhere(make_fleet, caplog):
    """It makes no call on a connection that was closed while it waited."""
    fleet = await make_fleet(2)
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=0)
    task = asyncio.create_task(fleet.generate())
    await eventually(lambda: sum(worker.running for worker in fleet.workers) == 1)
    first, second = sorted(fleet.workers, key=lambda worker: -worker.running)
    await first.die()
    await eventually(lambda: fleet.pool.find(second.name).lease_count == 1)
    fleet.pool.apply(Removed(second.name))
    for worker in fleet.workers:
        worker.go_on.set()
    await first.start()
    assert (await task).text == text_of(8)
    assert not second.requests
    assert "never retrieved" not in caplog.text


async def test_innocent_streams_survive_poison_beside_them(make_fleet):
    """Streams in the middle of an answer are not blamed for a crash while there is a better suspect."""
    fleet = await make_fleet(4)
    for worker in fleet.workers:
        worker.script = Script(poison="mandrake", pause_after_tokens=3)
    tasks = [asyncio.create_task(fleet.generate(max_tokens=9)) for _ in range(8)]
    await eventually(lambda: sum(worker.running for worker in fleet.workers) == 8)
    await eventually(lambda: all(worker.incarnation.load.prompt_tokens == 0 for worker in fleet.pool.workers()))
    with pytest.raises(Quarantined):
        await fleet.generate("mandrake")
    for worker in fleet.workers:
        worker.go_on.set()
    assert {reply.text for reply in await asyncio.gather(*tasks)} == {text_of(9)}


async def test_innocent_prompts_survive_poison_beside_them(make_fleet):
    """Two suspects of one crash are not sent to the same worker, so a second crash identifies one."""
    fleet = await make_fleet(2)
    for worker in fleet.workers:
        worker.script = Script(poison="mandrake", pause_after_tokens=0)
    innocents = [asyncio.create_task(fleet.generate()) for _ in range(4)]
    await eventually(lambda: sum(worker.running for worker in fleet.workers) == 4)
    poison = asyncio.create_task(fleet.generate("mandrake"))
    await eventually(lambda: any(worker.unavailable for worker in fleet.pool.workers()))
    while not poison.done():
        for worker in fleet.workers:
            worker.go_on.set()
            if worker.is_dead:
                await worker.start()
        await asyncio.wait({poison}, timeout=0.02)
    with pytest.raises(Quarantined):
        await poison
    for worker in fleet.workers:
        if worker.is_dead:
            await worker.start()
    assert {reply.text for reply in await asyncio.gather(*innocents)} == {text_of(8)}


async def test_three_failures_in_a_row_take_a_worker_out_and_a_probe_brings_it_back(make_fleet):
    """A worker that fails at once does not attract traffic by being idle."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(always=fault())
    replies = [await fleet.generate() for _ in range(20)]
    assert {reply.text for reply in replies} == {text_of(8)}
    assert "is ejected" in fleet.pool.find("w0").unavailable
    assert sum(request.prompt == "hello" for request in fleet.workers[0].requests) == 3
    fleet.workers[0].script = Script()
    await fleet.all_available()
    assert any(request.request_id == "probe-w0" for request in fleet.workers[0].requests)


async def test_the_last_worker_is_not_ejected_for_failures_alone(make_fleet):
    """A faulty worker is better than none."""
    fleet = await make_fleet(1)
    fleet.workers[0].script = Script(errors=[fault()] * 9)
    for _ in range(3):
        with pytest.raises(EngineFault):
            await fleet.generate()
    assert fleet.pool.find("w0").unavailable == ""
    assert (await fleet.generate()).text == text_of(8)


async def test_requests_survive_the_loss_of_all_workers(make_fleet):
    """They wait, and are served by the next incarnation at the same address."""
    fleet = await make_fleet(2)
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=3)
    tasks = [asyncio.create_task(fleet.generate(max_tokens=6)) for _ in range(4)]
    await eventually(lambda: sum(worker.running for worker in fleet.workers) == 4)
    await eventually(lambda: all(worker.incarnation.load.prompt_tokens == 0 for worker in fleet.pool.workers()))
    for worker in fleet.workers:
        await worker.die()
    await eventually(lambda: fleet.dispatcher.waiting == 4)
    for worker in fleet.workers:
        worker.script = Script()
        await worker.start()
    assert {reply.text for reply in await asyncio.gather(*tasks)} == {text_of(6)}


async def test_a_restarted_worker_starts_with_empty_counts(make_fleet):
    """A new boot id is a new incarnation: nothing of the old one counts."""
    fleet = await make_fleet(1)
    await fleet.generate("x" * 1000)
    old = fleet.pool.find("w0").incarnation
    await fleet.workers[0].die()
    await eventually(lambda: fleet.pool.find("w0").unavailable)
    await fleet.workers[0].start()
    await fleet.all_available()
    life = fleet.pool.find("w0").incarnation
    assert life is not old
    assert life.boot_id == fleet.workers[0].boot_id


async def test_without_any_worker_a_request_fails_at_its_deadline(make_fleet):
    """With NoWorker, not DeadlineExceeded."""
    fleet = await make_fleet(1, start=False)
    deadline = asyncio.get_running_loop().time() + 0.1
    with pytest.raises(NoWorker, match="no worker serves"):
        await fleet.generate(call=Call("me", deadline))


async def test_without_any_worker_the_wait_ends_without_a_deadline_too(make_fleet):
    """No request waits for ever for an address that never answers."""
    fleet = await make_fleet(1, start=False, no_worker_timeout_seconds=0.1)
    with pytest.raises(NoWorker):
        await fleet.generate()


async def test_a_request_waits_for_a_worker_that_starts(make_fleet):
    """Longer than the timeout for absent ones, and the time counts as load."""
    timeout_seconds, clock = 0.05, asyncio.get_running_loop().time
    fleet = await make_fleet(1, start=False, no_worker_timeout_seconds=timeout_seconds)
    await fleet.workers[0].start(worker_pb2.WORKER_STATE_STARTING)
    await eventually(lambda: fleet.pool.workers()[0].unavailable == "is starting")
    task = asyncio.create_task(fleet.generate())
    await eventually(lambda: fleet.dispatcher.waiting == 1)
    begun = clock()
    await eventually(lambda: clock() > begun + 3 * timeout_seconds)
    fleet.workers[0].become(worker_pb2.WORKER_STATE_READY)
    reply = await task
    assert reply.text == text_of(8)
    assert reply.finished.timings.load.ToNanoseconds() > 0


async def test_a_deadline_passes_in_the_queue(make_fleet):
    """The waiting request leaves the queue at once."""
    fleet = await make_fleet(1, max_streams=1)
    fleet.workers[0].script = Script(pause_after_tokens=1)
    task = asyncio.create_task(fleet.generate())
    await eventually(lambda: fleet.leases == 1)
    deadline = asyncio.get_running_loop().time() + 0.05
    with pytest.raises(DeadlineExceeded):
        await fleet.generate(call=Call("me", deadline))
    assert fleet.dispatcher.waiting == 0
    fleet.workers[0].go_on.set()
    await task


async def test_a_deadline_passes_while_the_worker_runs(make_fleet):
    """The worker's call ends with it."""
    fleet = await make_fleet(1)
    fleet.workers[0].script = Script(pause_after_tokens=1)
    deadline = asyncio.get_running_loop().time() + 0.1
    with pytest.raises(DeadlineExceeded):
        await fleet.generate(call=Call("me", deadline))
    await eventually(lambda: fleet.workers[0].running == 0)
    assert fleet.pool.find("w0").unavailable == ""


async def test_a_burst_is_queued_and_the_rest_refused_at_once(make_fleet):
    """Every request has an answer; the refused ones carry Retry-After."""
    fleet = await make_fleet(1, max_streams=2, max_queue=4)
    fleet.workers[0].script = Script(pause_after_tokens=1)
    tasks = [asyncio.create_task(fleet.generate()) for _ in range(20)]
    await eventually(lambda: sum(task.done() for task in tasks) == 14)
    fleet.workers[0].go_on.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [result for result in results if isinstance(result, QueueFull)]
    assert len(refused) == 14
    assert all(error.retry_after_seconds >= 1 for error in refused)
    assert sum(not isinstance(result, Exception) for result in results) == 6


async def test_an_early_check_for_room_is_counted_as_refused(make_fleet):
    """The metrics count every refusal, however early."""
    fleet = await make_fleet(1, max_streams=1, max_queue=0)
    fleet.dispatcher.raise_if_full("m")
    fleet.workers[0].script = Script(pause_after_tokens=1)
    task = asyncio.create_task(fleet.generate())
    await eventually(lambda: fleet.leases == 1)
    with pytest.raises(QueueFull):
        fleet.dispatcher.raise_if_full("m:latest")
    assert fleet.value("vllama_queue_full_total") == 1
    assert fleet.value("vllama_requests_total", model="", outcome="QUEUE_FULL") == 1
    fleet.workers[0].go_on.set()
    await task


async def test_rerouting_and_resuming_are_measured_apart(make_fleet):
    """Rerouting ends when the next worker has the request, resuming when it has computed the prompt again."""
    fleet = await make_fleet(2)
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=2)
    task = asyncio.create_task(fleet.generate())
    await eventually(lambda: any(worker.running for worker in fleet.workers))
    victim = next(worker for worker in fleet.workers if worker.running)
    await victim.die()
    await eventually(lambda: fleet.value("vllama_reroute_seconds_count") == 1)
    for worker in fleet.workers:
        worker.go_on.set()
    await task
    assert fleet.value("vllama_resume_seconds_count") == 1
    assert fleet.value("vllama_reroute_seconds_sum") <= fleet.value("vllama_resume_seconds_sum")


async def test_a_draining_worker_takes_nothing_new(make_fleet):
    """Its report suffices."""
    fleet = await make_fleet(2)
    fleet.workers[0].become(DRAINING)
    await eventually(lambda: fleet.pool.find("w0").unavailable)
    for _ in range(4):
        await fleet.generate()
    assert len(fleet.workers[0].requests) == 0


async def test_a_failed_worker_takes_nothing_and_shows_its_reason(make_fleet):
    """FAILED carries the root cause."""
    fleet = await make_fleet(2)
    fleet.workers[0].report.failure = "no memory: lower --max-model-len"
    fleet.workers[0].become(FAILED)
    await eventually(lambda: "no memory" in fleet.pool.find("w0").unavailable)
    assert (await fleet.generate()).text == text_of(8)


async def test_embeddings_are_answered_and_retried(make_fleet):
    """A unary call changes nothing, so any worker may repeat it."""
    fleet = await make_fleet(2)
    for worker in fleet.workers:
        worker.script = Script(errors=[fault()] if worker is fleet.workers[0] else [])
    for _ in range(4):
        reply = await fleet.dispatcher.embed(embedding_pb2.EmbedRequest(model="m", inputs=["abc"]), Call("me"))
        assert list(reply.vectors[0].values) == [3.0]


async def test_tokenizing_needs_no_room(make_fleet):
    """It is answered while every stream is in use."""
    fleet = await make_fleet(1, max_streams=1)
    fleet.workers[0].script = Script(pause_after_tokens=1)
    task = asyncio.create_task(fleet.generate())
    await eventually(lambda: fleet.leases == 1)
    tokens = await fleet.dispatcher.tokenize(generation_pb2.TokenizeRequest(model="m", prompt="ab"), Call("me"))
    text = await fleet.dispatcher.detokenize(
        generation_pb2.DetokenizeRequest(model="m", token_ids=tokens.token_ids), Call("me")
    )
    assert text.text == "ab"
    fleet.workers[0].go_on.set()
    await task


async def test_requests_are_counted_by_outcome(make_fleet):
    """In, out, and the outcome."""
    fleet = await make_fleet(1)
    await fleet.generate()
    fleet.workers[0].script = Script(always=InvalidRequest("no"))
    with pytest.raises(InvalidRequest):
        await fleet.generate()
    assert fleet.value("vllama_requests_total", model="m:latest", outcome="ok") == 1
    assert fleet.value("vllama_requests_total", model="m:latest", outcome="INVALID_REQUEST") == 1
    assert fleet.value("vllama_requests_in_flight") == 0
    assert fleet.value("vllama_generated_tokens_total", model="m:latest") == 8


async def test_a_bug_in_the_dispatch_path_has_an_outcome_of_its_own(make_fleet):
    """It is not counted as cancelled by the client."""
    fleet = await make_fleet(1)
    fleet.dispatcher._streamer.run = lambda generation: 1 / 0
    with pytest.raises(ZeroDivisionError):
        await fleet.generate()
    assert fleet.value("vllama_requests_total", model="m:latest", outcome="internal") == 1
    assert fleet.value("vllama_requests_in_flight") == 0
