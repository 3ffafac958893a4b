"""Exact counts of one worker's load, through the leases that change them."""

import math
import time

import pytest

from vllama_balancer.change_counter import ChangeCounter
from vllama_balancer.fleet.events import Added
from vllama_balancer.routing.policy import Choice
from vllama_balancer.routing.prefix_index import Prefix
from vllama_balancer.workers.breaker import HealthSettings
from vllama_balancer.workers.lease import take_lease
from vllama_balancer.workers.load import Reservation
from vllama_balancer.workers.worker import Worker
from vllama_protos.v1 import worker_pb2


class Call:
    """A call that records its cancellation."""

    cancelled = False

    def cancel(self):
        """Records it."""
        self.cancelled = True
        return True


@pytest.fixture
def worker():
    """A ready worker without a connection."""
    worker = Worker(Added("w0", "unused", ("m",)), None, HealthSettings(), ChangeCounter(), time.monotonic)
    worker.describe(worker_pb2.DescribeResponse(boot_id="one", models=["m"], max_streams=2, kv_cache_tokens=1000))
    worker.take_report(worker_pb2.WorkerReport(boot_id="one", state=worker_pb2.WORKER_STATE_READY))
    return worker


def lease_of(worker, uncached=100, prompt=150, output=50):
    """Takes a lease for a request."""
    lease = take_lease(worker, Choice(worker.name, "test"), Reservation(uncached, prompt + output))
    lease.predicted_cached_tokens = prompt - uncached
    lease.expected_output_tokens = output
    return lease


def counts(worker):
    """Streams, uncached prompt tokens, KV tokens."""
    load = worker.incarnation.load
    return load.streams, load.prompt_tokens, load.kv_tokens


def test_a_lease_counts_from_the_pick_to_the_release(worker):
    """And the prompt only until it is computed."""
    lease = lease_of(worker)
    assert counts(worker) == (1, 100, 200)
    lease.first_token()
    assert counts(worker) == (1, 0, 200)
    lease.release()
    assert counts(worker) == (0, 0, 0)


def test_releasing_twice_counts_once(worker):
    """Every path may release unconditionally."""
    first, second = lease_of(worker), lease_of(worker)
    first.release()
    first.release()
    first.first_token()
    assert counts(worker) == (1, 100, 200)
    second.release()
    assert counts(worker) == (0, 0, 0)


def test_the_workers_own_count_replaces_the_estimate(worker):
    """`started` carries the real length and the cached tokens."""
    lease = lease_of(worker)
    lease.started(prompt_tokens=400, cached_tokens=160)
    assert counts(worker) == (1, 240, 450)
    lease.release()
    assert counts(worker) == (0, 0, 0)


def test_a_prediction_that_was_too_high_is_corrected(worker):
    """Blocks that the worker has evicted are dropped here as well."""
    prefix = Prefix(tuple(range(10)), 10.0)
    worker.incarnation.prefix_index.insert(prefix)
    lease = lease_of(worker, uncached=50, prompt=150)
    lease.started(prompt_tokens=150, cached_tokens=40)
    assert worker.incarnation.prefix_index.match(prefix) == 4


def test_a_full_worker_is_no_candidate(worker):
    """`max_streams` leases, and no more."""
    leases = [lease_of(worker), lease_of(worker)]
    assert worker.candidate() is None
    leases[0].release()
    assert worker.candidate().streams == 1


def test_a_candidate_shows_the_latest_counts(worker):
    """It is cached, but never stale."""
    assert worker.candidate().streams == 0
    lease = lease_of(worker)
    assert worker.candidate().prompt_tokens == 100
    lease.first_token()
    assert worker.candidate().prompt_tokens == 0
    worker.take_report(worker_pb2.WorkerReport(boot_id="one", state=worker_pb2.WORKER_STATE_READY, running=7))
    assert worker.candidate().other_streams == 6


def report(worker, **fields):
    """Makes the worker report."""
    worker.take_report(worker_pb2.WorkerReport(boot_id="one", state=worker_pb2.WORKER_STATE_READY, **fields))
    return worker.candidate()


def test_the_load_of_other_balancers_is_the_excess_of_a_report(worker):
    """Streams and prompts; own ones that come or go later do not change it until the next report."""
    lease = lease_of(worker, uncached=100)
    candidate = report(worker, running=4, waiting=1, queued_prompt_tokens=700)
    assert (candidate.streams, candidate.other_streams, candidate.other_prompt_tokens) == (1, 4, 600)
    lease.release()
    candidate = worker.candidate()
    assert (candidate.streams, candidate.other_streams, candidate.other_prompt_tokens) == (0, 4, 600)
    candidate = report(worker)
    assert (candidate.other_streams, candidate.other_prompt_tokens) == (0, 0)


def test_a_lone_balancer_finds_no_others(worker):
    """Its own prompts, counted with their cached part by the engine, do not count as others'."""
    lease_of(worker, uncached=100)
    candidate = report(worker, running=0, waiting=1, queued_prompt_tokens=5000)
    assert (candidate.other_streams, candidate.other_prompt_tokens) == (0, 0)


def test_speeds_are_measured_while_there_is_work(worker):
    """Reports of an idle worker repeat what it measured when it last had any."""
    report(worker, running=1, prefill_tokens_per_second=100.0)
    measured_at = worker.candidate().measured_at
    candidate = report(worker, prefill_tokens_per_second=100.0)
    assert candidate.measured_at == measured_at < candidate.reported_at


def test_recent_assignments_fade(worker):
    """They break ties between workers, for a few seconds."""
    load = worker.incarnation.load
    load.capacity.max_streams = 3
    load.reserve(Reservation(100, 0), now=10.0)
    load.reserve(Reservation(0, 0), now=12.0)
    # 100 tokens have become 50 after two seconds; from then on, one half-life for each halving down to one.
    assert load.candidate("w0").assigned_until == pytest.approx(12.0 + 2.0 * math.log2(50.0))


def test_abandoning_ends_the_call_once(worker):
    """Its reader finds the reason."""
    lease, call = lease_of(worker), Call()
    lease.attach(call.cancel)
    lease.abandon("it hangs")
    lease.abandon("again")
    assert call.cancelled
    assert lease.abandoned == "it hangs"
    late = Call()
    lease.attach(late.cancel)
    assert late.cancelled


def test_a_released_lease_cannot_be_abandoned(worker):
    """Its call has ended already."""
    lease, call = lease_of(worker), Call()
    lease.attach(call.cancel)
    lease.release()
    lease.abandon("too late")
    assert not call.cancelled
    assert lease.abandoned == ""


def test_a_new_incarnation_abandons_the_leases_of_the_old(worker):
    """And their late release does not touch the new counts."""
    lease, call = lease_of(worker), Call()
    lease.attach(call.cancel)
    worker.describe(worker_pb2.DescribeResponse(boot_id="two", models=["m"], max_streams=2))
    assert call.cancelled
    assert "was restarted" in lease.abandoned
    assert counts(worker) == (0, 0, 0)
    lease.release()
    assert counts(worker) == (0, 0, 0)


def test_blame_is_assigned_once_per_incarnation(worker):
    """The first loss decides for all its leases."""
    prefilling, decoding = lease_of(worker), lease_of(worker)
    decoding.first_token()
    worker.mark_lost("gone")
    assert (prefilling.is_blamed, decoding.is_blamed) == (True, False)
    later = lease_of(worker)
    worker.mark_lost("gone")
    assert not later.is_blamed


def test_a_worker_that_recovers_has_crashed_for_no_request(worker):
    """It was slow to answer; its streams are not blamed for a crash later on."""
    decoding = lease_of(worker)
    decoding.first_token()
    worker.mark_lost("slow")
    worker.mark_recovered()
    assert not decoding.is_blamed
    prefilling = lease_of(worker)
    worker.mark_lost("gone")
    assert (prefilling.is_blamed, decoding.is_blamed) == (True, False)


def test_a_new_incarnation_does_not_pay_for_the_crashes_of_the_old(worker):
    """A request may have caused them: the first ejection is as short as that of a new worker."""
    for _ in range(5):
        worker.mark_lost("gone")
        worker.mark_recovered()
    worker.describe(worker_pb2.DescribeResponse(boot_id="two", models=["m"], max_streams=2))
    worker.mark_lost("gone")
    assert worker.breaker.retry_in_seconds <= HealthSettings().first_ejection_seconds


def test_a_candidate_has_every_count_in_its_own_field(worker):
    """All of them different, so that none can stand for another."""
    lease_of(worker, uncached=100, prompt=150, output=50)
    fields = {"running": 4, "queued_prompt_tokens": 700, "kv_cache_use": 0.3, "prefill_tokens_per_second": 9.0}
    message = worker_pb2.WorkerReport(boot_id="one", state=worker_pb2.WORKER_STATE_READY, **fields)
    message.step.FromNanoseconds(54_000_000)
    worker.take_report(message)
    candidate = worker.candidate()
    assert (candidate.name, candidate.streams, candidate.max_streams, candidate.prompt_tokens) == ("w0", 1, 2, 100)
    assert (candidate.kv_reserved, candidate.kv_per_token) == pytest.approx((0.2, 0.001))
    assert (candidate.other_streams, candidate.other_prompt_tokens, candidate.reported_kv_use) == (
        3,
        600,
        pytest.approx(0.3),
    )
    assert (candidate.prefill_tokens_per_second, candidate.stream_seconds) == (9.0, pytest.approx(0.001))
    assert candidate.ready_at <= candidate.measured_at == candidate.reported_at
    assert candidate.assigned_until == pytest.approx(candidate.reported_at + 2.0 * math.log2(100), abs=1.0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0])
def test_a_number_that_is_none_counts_as_not_measured(worker, number):
    """Policies compare and add what a worker reports: one such number would fail every placement of the model."""
    report = worker_pb2.WorkerReport(boot_id="one", state=worker_pb2.WORKER_STATE_READY)
    report.prefill_tokens_per_second = report.kv_cache_use = number
    report.step.seconds = -5
    worker.take_report(report)
    candidate = worker.candidate()
    assert candidate.prefill_tokens_per_second == 0
    assert candidate.reported_kv_use == (1.0 if number == math.inf else 0.0)
    assert candidate.stream_seconds == 0
