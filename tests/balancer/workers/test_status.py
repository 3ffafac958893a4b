"""The public status of a worker."""

from tests.balancer.conftest import READY, STARTING
from tests.balancer.scripted_worker import eventually
from vllama_balancer.fleet.events import Changed, Deaths, ProcessState
from vllama_balancer.workers.status import status_of
from vllama_protos.v1 import worker_pb2


async def test_a_process_without_a_socket_yet_is_starting(make_fleet):
    """Not a failed connection: Python is still importing."""
    fleet = await make_fleet(1, start=False)
    fleet.pool.apply(Changed("w0", ProcessState.RUNNING, pid=4711))
    worker = fleet.pool.find("w0")
    status = status_of(worker)
    assert (status.available, status.reason) == (False, "is starting: starting its process, 0 s")
    assert status.report.state == worker_pb2.WORKER_STATE_STARTING


async def test_a_start_has_phase_share_and_time(make_fleet):
    """As the worker reports them."""
    fleet = await make_fleet(1, start=False)
    await fleet.workers[0].start(STARTING)
    report = fleet.workers[0].report
    report.phase, report.progress = worker_pb2.START_PHASE_LOAD, 0.42
    report.uptime.FromSeconds(12)
    worker = fleet.pool.find("w0")
    await eventually(lambda: worker.report is not None and worker.report.progress)
    assert status_of(worker).reason == "is starting: loading weights, 42 %, 12 s"


async def test_a_new_process_is_starting_whatever_the_old_one_reported_last(make_fleet):
    """The last report was ready, and another process's."""
    fleet = await make_fleet(1)
    worker = fleet.pool.find("w0")
    fleet.pool.apply(Changed("w0", ProcessState.RUNNING, pid=1))
    await eventually(lambda: not worker.is_coming_up)
    await fleet.workers[0].die()
    await eventually(lambda: not worker.is_connected)
    assert worker.report.state == READY
    fleet.pool.apply(Changed("w0", ProcessState.RUNNING, pid=2, restarts=1))
    assert status_of(worker).report.state == worker_pb2.WORKER_STATE_STARTING
    assert status_of(worker).reason.startswith("is starting: starting its process")
    await fleet.workers[0].start()
    await fleet.all_available()


async def test_an_address_without_a_worker_is_named(make_fleet):
    """Without gRPC's wording."""
    fleet = await make_fleet(1, start=False)
    worker = fleet.pool.find("w0")
    await eventually(lambda: status_of(worker).reason == f"is not connected: nothing answers at {worker.address}")


async def test_deaths_of_the_process_are_told(make_fleet):
    """How many, and why the last time; they stay when the worker serves again."""
    fleet = await make_fleet(1)
    fleet.pool.apply(Changed("w0", ProcessState.RUNNING, deaths=Deaths(3, "CUDA error")))
    status = status_of(fleet.pool.find("w0"))
    assert (status.available, status.deaths, status.last_death) == (True, 3, "CUDA error")
