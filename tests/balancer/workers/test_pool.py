"""The set of workers: how they join, change and leave."""

import asyncio
import errno

import grpc

from tests.balancer.conftest import DRAINING, READY, STARTING
from tests.balancer.scripted_worker import Script, ScriptedWorker, eventually, text_of
from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.names import model_key
from vllama_balancer.workers.breaker import HealthSettings
from vllama_balancer.workers.channel import Channel
from vllama_balancer.workers.pool import Pool
from vllama_protos.v1 import worker_pb2

KEY = model_key("m")


async def test_a_worker_joins_under_load(make_fleet, tmp_path):
    """And takes its share."""
    fleet = await make_fleet(1)
    late = ScriptedWorker("late", f"unix:{tmp_path}/late")
    await late.start()
    fleet.workers.append(late)
    fleet.pool.apply(Added("late", late.address))
    await fleet.all_available()
    replies = await asyncio.gather(*(fleet.generate() for _ in range(8)))
    assert {reply.text for reply in replies} == {text_of(8)}
    assert len(late.requests) == 4


async def test_an_address_without_a_worker_is_waited_for(make_fleet):
    """It joins when it answers."""
    fleet = await make_fleet(1, start=False)
    worker = fleet.pool.find("w0")
    await eventually(lambda: "not connected" in worker.unavailable)
    await fleet.workers[0].start()
    await fleet.all_available()


async def test_a_starting_worker_takes_nothing_until_it_is_ready(make_fleet):
    """Then it is described again: only the loaded engine has its size."""
    fleet = await make_fleet(1, start=False)
    await fleet.workers[0].start(STARTING)
    worker = fleet.pool.find("w0")
    await eventually(lambda: worker.unavailable == "is starting")
    assert worker.may_come_back
    fleet.workers[0].max_streams = 3
    fleet.workers[0].become(READY)
    await fleet.all_available()
    assert worker.incarnation.load.capacity.max_streams == 3


async def test_the_fleet_source_may_report_the_end_of_a_process_before_the_connection_ends(make_fleet):
    """It gets no more requests."""
    fleet = await make_fleet(2)
    fleet.pool.apply(Changed("w0", ProcessState.RESTARTING, "exit status 1", restarts=3, retry_in_seconds=2.0))
    worker = fleet.pool.find("w0")
    assert worker.unavailable == "is restarting: exit status 1"
    assert worker.may_come_back
    for _ in range(3):
        await fleet.generate()
    assert fleet.workers[0].requests == []


async def test_a_supervised_process_that_drains_may_come_back(make_fleet):
    """Its supervisor restarts it: the last report of the old incarnation does not count."""
    fleet = await make_fleet(1)
    fleet.pool.apply(Changed("w0", ProcessState.RUNNING, pid=4711))
    fleet.workers[0].become(DRAINING)
    worker = fleet.pool.find("w0")
    await eventually(lambda: worker.unavailable == "is draining")
    assert worker.may_come_back
    fleet.pool.apply(Changed("w0", ProcessState.STOPPED, "is being stopped", pid=4711))
    assert not worker.may_come_back


async def test_a_crash_loop_is_hopeless(make_fleet):
    """No request waits for it."""
    fleet = await make_fleet(1)
    assert not fleet.pool.is_hopeless(KEY)
    fleet.pool.apply(Changed("w0", ProcessState.FAILED, "it dies at once: no memory"))
    assert fleet.pool.is_hopeless(KEY)
    assert "no memory" in fleet.pool.find("w0").unavailable


async def test_events_of_an_unknown_worker_are_ignored(make_fleet):
    """They may come after its removal."""
    fleet = await make_fleet(1)
    fleet.pool.apply(Changed("ghost", ProcessState.FAILED))
    fleet.pool.apply(Removed("ghost"))
    assert [worker.name for worker in fleet.pool.workers()] == ["w0"]


async def test_a_second_worker_of_the_same_name_replaces_the_first(make_fleet, tmp_path):
    """At another address; the streams of the old one move over."""
    fleet = await make_fleet(1)
    fleet.workers[0].script.pause_after_tokens = 2
    task = asyncio.create_task(fleet.generate())
    await eventually(lambda: fleet.leases == 1 and fleet.workers[0].running == 1)
    new = ScriptedWorker("w0", f"unix:{tmp_path}/new")
    await new.start()
    fleet.workers.append(new)
    fleet.pool.apply(Added("w0", new.address))
    assert (await task).text == text_of(8)
    assert len(new.requests) == 1


async def test_workers_of_other_models_are_no_candidates(make_fleet):
    """A model's requests go to its own workers."""
    fleet = await make_fleet(2)
    assert len(fleet.pool.snapshot(KEY).candidates) == 2
    assert fleet.pool.snapshot(model_key("other")).candidates == ()


async def test_a_source_is_followed_to_its_end(make_fleet):
    """Event by event."""
    fleet = await make_fleet(1)

    async def source():
        yield Added("w9", "unix:w9")
        yield Changed("w9", ProcessState.RESTARTING, "a")
        assert fleet.pool.find("w9").unavailable == "is restarting: a"
        yield Removed("w9")

    await fleet.pool.follow(source())
    assert [worker.name for worker in fleet.pool.workers()] == ["w0"]


async def test_an_incarnation_is_excluded_only_while_another_is_available(make_fleet):
    """A request that failed everywhere may return to its first worker."""
    fleet = await make_fleet(2)
    first, second = fleet.pool.workers()
    only = fleet.pool.snapshot(KEY, {first.incarnation.boot_id}).candidates
    assert [candidate.name for candidate in only] == [second.name]
    both = fleet.pool.snapshot(KEY, {first.incarnation.boot_id, second.incarnation.boot_id}).candidates
    assert len(both) == 2


async def test_the_pools_state_is_read_at_every_scrape(make_fleet):
    """Availability, streams, ejections and restarts by worker."""
    fleet = await make_fleet(2)
    fleet.pool.find("w0").mark_lost("for the test")
    fleet.pool.apply(Changed("w1", ProcessState.RESTARTING, restarts=4))
    assert fleet.value("vllama_worker_available", worker="w0") == 0
    assert fleet.value("vllama_worker_ejections_total", worker="w0") == 1
    assert fleet.value("vllama_worker_restarts_total", worker="w1") == 4
    assert fleet.value("vllama_queue_length") == 0


async def test_a_sleeping_worker_is_not_counted_as_out(make_fleet):
    """Alerts are for workers that should serve; one that died asleep counts as gone."""
    fleet = await make_fleet(1)
    worker = fleet.pool.find("w0")
    assert fleet.value("vllama_worker_asleep", worker="w0") == 0
    worker.take_report(
        worker_pb2.WorkerReport(boot_id=worker.incarnation.boot_id, state=worker_pb2.WORKER_STATE_SLEEPING)
    )
    assert fleet.value("vllama_worker_available", worker="w0") == 0
    assert fleet.value("vllama_worker_asleep", worker="w0") == 1
    worker.disconnected("for the test")
    assert fleet.value("vllama_worker_asleep", worker="w0") == 0


async def test_a_workers_task_is_restarted_after_an_unexpected_error(make_fleet, caplog):
    """Otherwise the worker would keep its state of that moment for ever."""
    fleet = await make_fleet(1)
    worker = fleet.pool.find("w0")
    sound, worker.take_report = worker.take_report, lambda report: 1 / 0
    await eventually(lambda: "restarting the task" in caplog.text)
    worker.take_report = sound
    seen = worker.last_seen_at
    await eventually(lambda: worker.last_seen_at > seen)
    assert (await fleet.generate()).text == text_of(8)


async def test_two_sources_of_one_address_share_a_worker(make_fleet):
    """It stays, with its streams, until both have dropped it; it keeps the name that it had first."""
    fleet = await make_fleet(1)
    fleet.workers[0].script = Script(pause_after_tokens=3)
    address, first, second = fleet.workers[0].address, object(), object()
    fleet.pool.apply(Removed("w0"))
    fleet.pool.apply(Added(address, address), first)
    worker = fleet.pool.find(address)
    await fleet.all_available()
    running = asyncio.create_task(fleet.generate(max_tokens=6))
    await eventually(lambda: fleet.workers[0].running == 1)
    fleet.pool.apply(Added(address, address), second)
    fleet.pool.apply(Added(f"gpu7@{address}", address), second)
    fleet.pool.apply(Removed(address), first)
    fleet.pool.apply(Removed(address), second)
    assert fleet.pool.workers() == (worker,)
    fleet.workers[0].go_on.set()
    reply = await running
    assert (reply.text, reply.finished.migrations) == (text_of(6), 0)
    fleet.pool.apply(Removed(f"gpu7@{address}"), second)
    assert fleet.pool.workers() == ()
    fleet.pool.apply(Removed(f"gpu7@{address}"), second)


async def test_each_followed_source_counts_for_itself(make_fleet):
    """Two names whose records overlap are two sources."""
    fleet = await make_fleet(0)
    dropped = asyncio.Event()

    async def one():
        yield Added("a:1", "unix:a")
        yield Removed("a:1")
        dropped.set()

    async def other():
        yield Added("a:1", "unix:a")
        await dropped.wait()

    await asyncio.gather(fleet.pool.follow(other()), fleet.pool.follow(one()))
    assert [worker.name for worker in fleet.pool.workers()] == ["a:1"]


async def test_a_worker_may_come_back_as_another_model(make_fleet):
    """Under its address: it is taken as what it is now, and no longer as what it was."""
    fleet = await make_fleet(2, models=("m:latest", "other:latest"))
    changed = fleet.workers[0]
    for scripted, models in ((changed, ("other:latest",)), (fleet.workers[1], ("m:latest",))):
        await scripted.die()
        scripted.models = models
        await scripted.start()
    await eventually(lambda: [w.name for w in fleet.pool.available(model_key("other"))] == ["w0"])
    await eventually(lambda: [w.name for w in fleet.pool.available(KEY)] == ["w1"])
    seen = len(changed.requests)
    for _ in range(4):
        await fleet.generate()
    assert len(changed.requests) == seen
    assert (await fleet.generate(model="other")).text == text_of(8)


class BrokenEvent:
    """An event whose name cannot be read, for so many times."""

    def __init__(self, times):
        self.times = times

    @property
    def name(self):
        self.times -= 1
        if self.times >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return "nobody"


async def test_an_exception_in_one_event_does_not_end_the_following(make_fleet, tmp_path, caplog):
    """It is logged, tried again, and left out in the end; the next event is applied."""
    fleet = await make_fleet(1)
    passing, lasting = BrokenEvent(2), BrokenEvent(99)

    async def events():
        yield passing
        yield lasting
        yield Added("late", f"unix:{tmp_path}/late")

    await fleet.pool.follow(events(), pause_seconds=0.001)
    assert fleet.pool.find("late") is not None
    assert passing.times < 0 < lasting.times
    assert "Too many open files" in caplog.text
    fleet.pool.apply(Removed("late"))


class StuckChannel(Channel):
    """A channel that closes only when it is let go."""

    go_on = asyncio.Event()

    async def close(self):
        await self.go_on.wait()
        await super().close()


async def test_a_channel_that_does_not_close_does_not_hold_up_the_end(tmp_path):
    """The pool waits for it for a moment only."""
    channel = StuckChannel(grpc.aio.insecure_channel(f"unix:{tmp_path}/w"))
    pool = Pool(open_channel=lambda _: channel, close_seconds=0.01)
    pool.apply(Added("w", f"unix:{tmp_path}/w"))
    async with asyncio.timeout(5):
        await pool.close()
    channel.go_on.set()
    await channel.close()


async def test_metrics_of_a_worker_go_with_it(make_fleet):
    """Addresses of workers come and go for as long as the balancer runs."""
    fleet = await make_fleet(2, health=HealthSettings())
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=3)
    running = [asyncio.create_task(fleet.generate(max_tokens=6)) for _ in range(4)]
    await eventually(lambda: all(worker.running for worker in fleet.workers))
    fleet.pool.apply(Removed("w0"))
    for worker in fleet.workers:
        worker.go_on.set()
    await asyncio.gather(*running)

    def labelled():
        samples = [sample for metric in fleet.registry.collect() for sample in metric.samples]
        return {sample.labels["worker"] for sample in samples if "worker" in sample.labels}

    await eventually(lambda: labelled() == {"w1"})
