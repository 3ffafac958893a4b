"""What a failed attempt means for its worker."""

from prometheus_client import CollectorRegistry

from tests.balancer.dispatch.ready_pool import ReadyPool, placer_over, request_for
from vllama_balancer.dispatch.retry import RetryPolicy
from vllama_balancer.errors import WorkerLost
from vllama_balancer.metrics import Metrics
from vllama_balancer.workers.attempt_errors import AttemptFailed, FailureKind
from vllama_protos.v1 import worker_pb2


def test_a_late_failure_of_an_old_incarnation_leaves_the_new_one_in():
    """The worker was restarted before the failure was noticed."""
    pool = ReadyPool(4, 4)
    lease = placer_over(pool).place(request_for())
    worker = lease.worker
    worker.describe(worker_pb2.DescribeResponse(boot_id="new", models=["m"], max_streams=4))
    policy = RetryPolicy(pool, Metrics(CollectorRegistry()))
    for kind in (FailureKind.LOST, FailureKind.UNREACHABLE, FailureKind.REFUSED, FailureKind.FAULT):
        policy.penalise_worker(lease, AttemptFailed(kind, WorkerLost("it was lost")))
    assert worker.unavailable == ""
    assert worker.breaker.ejections_total == 0


def test_only_a_fault_makes_the_next_attempt_count_in_the_retry_budget():
    """Until its first token; a request of a worker that crashed has left a place behind."""
    pool = ReadyPool(4, 4)
    placer = placer_over(pool)
    policy = RetryPolicy(pool, Metrics(CollectorRegistry()))
    for kind, counts in ((FailureKind.FAULT, True), (FailureKind.LOST, False), (FailureKind.REFUSED, False)):
        request = request_for()
        policy.prepare_retry(request, placer.place(request), AttemptFailed(kind, WorkerLost("it failed")), 0)
        assert placer.place(request).uses_retry_budget is counts
