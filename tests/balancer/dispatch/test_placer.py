"""Pick and lease in one step, explained in the log."""

import asyncio
import logging

from tests.balancer.dispatch.ready_pool import ReadyPool, placer_over, request_for
from tests.balancer.scripted_worker import Script, eventually
from vllama_balancer.dispatch.placer import MAX_SESSIONS, Sessions
from vllama_balancer.gateway import Call

WORKERS = 16


def sixteen() -> ReadyPool:
    """Sixteen ready workers."""
    return ReadyPool(*[64] * WORKERS)


def test_a_burst_into_an_idle_fleet_spreads_evenly():
    """Each decision counts the ones before it, without waiting for a report."""
    pool = sixteen()
    placer = placer_over(pool)
    for i in range(WORKERS * 4):
        placer.place(request_for(f"{i} " * 400))
    assert {worker.lease_count for worker in pool.workers()} == {4}


def test_a_conversation_returns_to_its_worker():
    """The longest cached prefix wins among equals."""
    placer = placer_over(sixteen())
    for turn in range(1, 6):
        lease = placer.place(request_for("the same beginning " * 100 * turn))
        placer.release(lease)
        if turn == 1:
            home = lease.worker.name
        assert lease.worker.name == home
    assert lease.predicted_cached_tokens > 1000


def test_a_session_returns_to_its_worker_without_any_common_text():
    """The session breaks the tie."""
    placer = placer_over(sixteen())
    first = placer.place(request_for("tiny", session="s"))
    placer.release(first)
    for i in range(5):
        lease = placer.place(request_for(f"{i}", session="s"))
        placer.release(lease)
        assert lease.worker is first.worker


def test_sessions_are_forgotten_in_the_order_of_their_use():
    """Memory is bounded."""
    sessions = Sessions()
    for i in range(MAX_SESSIONS + 1):
        sessions.record(f"s{i}", "w0")
    assert sessions.hint("s0") == {}
    assert sessions.hint("s1") == {"w0": 1}
    assert sessions.hint("") == {}


async def test_the_table_of_candidates_is_logged_by_request(make_fleet, caplog):
    """At debug, one line for each candidate, and never the prompt."""
    fleet = await make_fleet(2, policy="expected-completion")
    with caplog.at_level(logging.DEBUG, "vllama_balancer.dispatch.placer"):
        await fleet.generate("a secret", request_id="my-request")
    lines = [record.getMessage() for record in caplog.records if "my-request" in record.getMessage()]
    assert len(lines) == 3
    assert all(f"candidate w{i}: total" in "".join(lines) for i in range(2))
    assert "secret" not in caplog.text


async def test_removal_blames_no_request(make_fleet):
    """A removed worker has not crashed."""
    fleet = await make_fleet(3)
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=0)
    task = asyncio.create_task(fleet.generate(call=Call("me")))
    for _ in range(2):
        await eventually(lambda: fleet.leases == 1)
        name = next(worker.name for worker in fleet.pool.workers() if worker.lease_count)
        await eventually(lambda name=name: next(w for w in fleet.workers if w.name == name).running == 1)
        fleet.pool._remove(name, "was retired")
    for worker in fleet.workers:
        worker.go_on.set()
    reply = await task
    assert reply.finished.usage.completion_tokens == 8
    assert fleet.value("vllama_quarantined_requests_total") == 0
