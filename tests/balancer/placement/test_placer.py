"""Pick and reserve in one step, explained when asked, and quick."""

import asyncio
import logging
import time
from random import Random

from prometheus_client import CollectorRegistry

from tests.balancer.scripted_worker import Script, eventually
from vllama_balancer.dispatch.retry_budget import RetryBudget
from vllama_balancer.fleet.events import Added
from vllama_balancer.gateway import Call
from vllama_balancer.metrics import Metrics
from vllama_balancer.model_key import model_key
from vllama_balancer.placement.estimates import ModelEstimates
from vllama_balancer.placement.measure import measure_generation
from vllama_balancer.placement.placer import Placer, Ticket
from vllama_balancer.placement.sessions import MOST_SESSIONS, Sessions
from vllama_balancer.policies import make_policy
from vllama_balancer.workers.health import HealthSettings
from vllama_balancer.workers.pool import Pool
from vllama_balancer.workers.worker import Worker
from vllama_protos.v1 import generation_pb2, worker_pb2

WORKERS = 16
DECISION_SECONDS = 250e-6
"""What a decision may take here: five times the promise, as this machine has other work as well."""


class Roster(Pool):
    """Sixteen ready workers without connections."""

    def __init__(self):
        super().__init__()
        for i in range(WORKERS):
            worker = Worker(Added(f"w{i}", "x", ("m",)), None, HealthSettings(), self.changes, time.monotonic)
            self._workers[worker.name] = worker
            described = {"boot_id": f"b{i}", "models": ["m"], "max_streams": 64, "kv_cache_tokens": 200_000}
            worker.describe(worker_pb2.DescribeResponse(**described))
            ready = worker_pb2.WORKER_STATE_READY
            worker.take_report(worker_pb2.WorkerReport(boot_id=f"b{i}", state=ready, running=3))


def ticket_for(prompt="x" * 800, **fields):
    """A request's ticket."""
    size = measure_generation(generation_pb2.GenerateRequest(prompt=prompt), ModelEstimates())
    return Ticket("r", model_key("m"), "c", size, **fields)


def placer_over(pool):
    """With the default policy."""
    metrics = Metrics(CollectorRegistry())
    return Placer(pool, make_policy("expected-completion"), RetryBudget(lambda: 0), metrics, Random(1))


def test_a_decision_among_sixteen_workers_is_quick():
    """Pick, reserve and account, at the best of many tries: noise only ever adds."""
    placer, best = placer_over(Roster()), 1.0
    for _ in range(40):
        began = time.perf_counter()
        leases = [placer.place(ticket) for ticket in [ticket_for()] * 10]
        best = min(best, (time.perf_counter() - began) / 10)
        for lease in leases:
            placer.release(lease)
    assert best < DECISION_SECONDS


def test_a_burst_into_an_idle_fleet_spreads_evenly():
    """Each decision sees the reservations of those before it, without waiting for any report."""
    pool = Roster()
    placer = placer_over(pool)
    for i in range(WORKERS * 4):
        placer.place(ticket_for(f"{i} " * 400))
    assert {worker.leases for worker in pool.workers()} == {4}


def test_a_conversation_returns_to_its_worker():
    """The longest cached prefix wins among equals."""
    placer = placer_over(Roster())
    for turn in range(1, 6):
        lease = placer.place(ticket_for("the same beginning " * 100 * turn))
        placer.release(lease)
        if turn == 1:
            home = lease.worker.name
        assert lease.worker.name == home
    assert lease.believed_tokens > 1000


def test_a_session_returns_to_its_worker_without_any_common_text():
    """The client's hint breaks the tie."""
    placer = placer_over(Roster())
    first = placer.place(ticket_for("tiny", session="s"))
    placer.release(first)
    for i in range(5):
        lease = placer.place(ticket_for(f"{i}", session="s"))
        placer.release(lease)
        assert lease.worker is first.worker


def test_sessions_are_forgotten_in_the_order_of_their_use():
    """Memory is bounded."""
    sessions = Sessions()
    for i in range(MOST_SESSIONS + 1):
        sessions.went(f"s{i}", "w0")
    assert sessions.hint("s0") == {}
    assert sessions.hint("s1") == {"w0": 1}
    assert sessions.hint("") == {}


async def test_the_table_of_candidates_is_logged_by_request(make_fleet, caplog):
    """At debug, one line for each candidate, and never the prompt."""
    fleet = await make_fleet(2, policy="expected-completion")
    with caplog.at_level(logging.DEBUG, "vllama_balancer.placement.placer"):
        await fleet.generate("a secret", request_id="my-request")
    lines = [record.getMessage() for record in caplog.records if "my-request" in record.getMessage()]
    assert len(lines) == 3
    assert all(f"candidate w{i}: total" in "".join(lines) for i in range(2))
    assert "secret" not in caplog.text


async def test_removal_blames_nobody(make_fleet):
    """A worker that is taken away was not killed."""
    fleet = await make_fleet(3)
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=0)
    task = asyncio.create_task(fleet.generate(call=Call("me")))
    for _ in range(2):
        await eventually(lambda: fleet.leases == 1)
        name = next(worker.name for worker in fleet.pool.workers() if worker.leases)
        await eventually(lambda name=name: next(w for w in fleet.workers if w.name == name).running == 1)
        fleet.pool._remove(name, "was retired")
    for worker in fleet.workers:
        worker.go_on.set()
    reply = await task
    assert reply.finished.usage.completion_tokens == 8
    assert fleet.value("vllama_quarantined_requests_total") == 0
