"""Every policy over the real pool: the workers are ready, full, unequal, unavailable or gone."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.balancer.dispatch.ready_pool import ReadyPool, placer_over, request_for
from vllama_balancer.fleet.events import Changed, ProcessState
from vllama_balancer.routing.policies import POLICIES
from vllama_protos.v1 import worker_pb2

every_policy = pytest.mark.parametrize("policy", POLICIES)


def shares(pool: ReadyPool, policy: str, requests: int) -> Counter[str]:
    """Counts the workers of requests that end before the next one comes."""
    placer, counts = placer_over(pool, policy), Counter()
    for number in range(requests):
        lease = placer.place(request_for(f"{number} " * 200))
        counts[lease.worker.name] += 1
        placer.release(lease)
    return counts


def eject(pool: ReadyPool) -> None:
    """Ejects it, as a call that found it dead."""
    pool.worker(1).mark_lost("it hung up")


def drain(pool: ReadyPool) -> None:
    """Reports that it drains."""
    pool.report(1, worker_pb2.WORKER_STATE_DRAINING)


def fail(pool: ReadyPool) -> None:
    """Reports that its engine has failed."""
    pool.report(1, worker_pb2.WORKER_STATE_FAILED)


def disconnect(pool: ReadyPool) -> None:
    """Ends its reports."""
    pool.worker(1).disconnected("reset by peer")


def hold(pool: ReadyPool) -> None:
    """Holds it."""
    pool.worker(1).hold("maintenance")


def restart(pool: ReadyPool) -> None:
    """Restarts its process."""
    pool.apply(Changed("w1", ProcessState.RESTARTING))


@every_policy
def test_idle_equals_get_equal_shares(policy: str) -> None:
    """800 requests, one after the other, on four workers.

    200 each; by chance the standard deviation is sqrt(800 * 1/4 * 3/4) = 12, of which five are allowed.
    """
    counts = shares(ReadyPool(8, 8, 8, 8), policy, 800)
    assert len(counts) == 4
    assert all(abs(count - 200) <= 60 for count in counts.values())


@every_policy
def test_no_worker_gets_more_streams_than_it_serves(policy: str) -> None:
    """Unequal workers fill up, each to its own size; then there is no room, and after a release there is."""
    pool = ReadyPool(2, 5, 9)
    placer = placer_over(pool, policy)
    leases = [placer.place(request_for(f"{number} " * 100)) for number in range(16)]
    assert [pool.worker(index).lease_count for index in range(3)] == [2, 5, 9]
    assert placer.place(request_for()) is None
    placer.release(leases[7])
    assert placer.place(request_for()).worker is leases[7].worker


@every_policy
@pytest.mark.parametrize("trouble", [eject, drain, fail, disconnect, hold, restart])
def test_an_unavailable_worker_gets_nothing(policy: str, trouble) -> None:
    """However idle it is; the others share its part."""
    pool = ReadyPool(8, 8, 8)
    trouble(pool)
    counts = shares(pool, policy, 60)
    assert set(counts) == {"w0", "w2"}


@every_policy
def test_a_recovered_worker_is_used_again(policy: str) -> None:
    """Without a penalty."""
    pool = ReadyPool(8, 8)
    pool.worker(1).mark_lost("it hung up")
    pool.worker(1).mark_recovered()
    assert shares(pool, policy, 60)["w1"] > 0


@every_policy
def test_a_single_worker_gets_everything(policy: str) -> None:
    """Until it is full."""
    pool = ReadyPool(3)
    placer = placer_over(pool, policy)
    assert all(placer.place(request_for()) for _ in range(3))
    assert placer.place(request_for()) is None


@every_policy
def test_without_workers_nothing_is_placed(policy: str) -> None:
    """None at all, and none available."""
    assert placer_over(ReadyPool(), policy).place(request_for()) is None
    pool = ReadyPool(8, 8)
    for index in range(2):
        pool.worker(index).mark_lost("it hung up")
    assert placer_over(pool, policy).place(request_for()) is None


@every_policy
def test_a_burst_leaves_no_worker_idle(policy: str) -> None:
    """64 requests at once on four workers: by lot a worker stays without any once in 10^8 bursts."""
    pool = ReadyPool(64, 64, 64, 64)
    placer = placer_over(pool, policy)
    for number in range(64):
        placer.place(request_for(f"{number} " * 100))
    assert all(worker.lease_count for worker in pool.workers())


@every_policy
def test_a_worker_that_failed_the_request_is_tried_last(policy: str) -> None:
    """Others first; if it is the only one, it is used."""
    pool = ReadyPool(8, 8)
    placer = placer_over(pool, policy)
    for _ in range(8):
        assert placer.place(request_for(excluded={"b0"})).worker.name == "w1"
    pool.worker(1).mark_lost("it hung up")
    assert placer.place(request_for(excluded={"b0"})).worker.name == "w0"
