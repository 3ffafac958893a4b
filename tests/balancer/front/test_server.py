"""The gRPC front door, through a real channel."""

import asyncio
import hashlib
import ipaddress

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from tests.balancer.scripted_worker import Script, eventually, fault, text_of
from vllama_balancer.callers import Access
from vllama_balancer.client_limits import ClientLimits
from vllama_balancer.errors import ConfigError, InvalidRequest, ModelNotFound
from vllama_balancer.fleet.events import Changed, ProcessState
from vllama_balancer.front.server import GrpcServer
from vllama_balancer.keys import ALL_SCOPES, ApiKey, ApiKeys, Scope
from vllama_balancer.startup.fleet_view import PoolView
from vllama_balancer.workers.rolling_restart import RollingRestart
from vllama_protos.budgets import RequestLimits
from vllama_protos.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    worker_pb2,
)

Code = grpc.StatusCode


class Served:
    """A running server and a client."""

    def __init__(self, fleet, front, channel, port):
        self.fleet = fleet
        self.front = front
        self.channel = channel
        self.port = port
        self.generation = generation_pb2_grpc.GenerationStub(channel)
        self.embedding = embedding_pb2_grpc.EmbeddingStub(channel)
        self.fleet_service = fleet_pb2_grpc.FleetStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)


class Control:
    """Restarts scripted workers as a supervisor would."""

    def __init__(self, fleet, owned=True):
        self.fleet = fleet
        self.owned = owned
        self.restarted = []
        self.retired = []

    def owns(self, name):
        """All of them, or none."""
        return self.owned

    async def restart(self, name):
        """A new life at the same address."""
        worker = next(worker for worker in self.fleet.workers if worker.name == name)
        await worker.die()
        await worker.start()
        self.restarted.append(name)

    async def retire(self, name):
        """Ends it."""
        self.retired.append(name)


@pytest.fixture
async def open_door(make_fleet):
    """Starts servers and stops them at the end."""
    doors = []

    async def make(count=2, access=None, owned=True, models=None, unloader=None, limits=None, **options):
        fleet = await make_fleet(count, **options)
        rolling = RollingRestart(fleet.pool, Control(fleet, owned))
        view = PoolView(fleet.pool, lambda: fleet.dispatcher.waiting, models)
        front = GrpcServer(fleet.dispatcher, fleet.pool, rolling, view, access, unloader=unloader, limits=limits)
        port = await front.start("127.0.0.1:0")
        door = Served(fleet, front, grpc.aio.insecure_channel(f"127.0.0.1:{port}"), port)
        door.control, door.rolling = rolling._control, rolling
        doors.append(door)
        return door

    yield make
    for door in doors:
        await door.channel.close()
        await door.front.stop(0)
        await door.rolling.close()


def request(**fields):
    """A request for eight tokens."""
    sampling = generation_pb2.Sampling(max_tokens=8)
    return generation_pb2.GenerateRequest(**{"model": "m", "prompt": "hello", "sampling": sampling, **fields})


async def events_of(call):
    """Reads a stream to its end."""
    return [event async for event in call]


def is_whole(events):
    """Whether all eight tokens and the end have come; deltas may have merged."""
    return events[-1].HasField("finished") and "".join(event.delta.text for event in events) == text_of(8)


def details_of(error):
    """The ErrorInfo and the RetryInfo of a failed call."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in rpc_status.from_call(error).details:
        for message in (info, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    return info, retry


async def test_a_generation_streams_through(open_door):
    """The same events in the same order as a worker's."""
    door = await open_door()
    events = await events_of(door.generation.Generate(request()))
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == ("started", {"delta"}, "finished")
    assert is_whole(events)


async def test_metadata_tells_the_worker_the_reason_and_the_request(open_door):
    """Before the first event."""
    door = await open_door(1)
    call = door.generation.Generate(request(request_id="my-id"))
    metadata = dict(await call.initial_metadata())
    await events_of(call)
    assert metadata["x-vllama-worker"] == "w0"
    assert metadata["x-vllama-reason"] == "least-load"
    assert metadata["x-request-id"] == "my-id"


async def test_the_request_id_may_come_as_metadata(open_door):
    """The worker gets it in the request."""
    door = await open_door(1)
    await events_of(door.generation.Generate(request(), metadata=(("x-request-id", "from-header"),)))
    assert door.fleet.workers[0].requests[0].request_id == "from-header"


async def test_a_request_without_an_id_gets_one(open_door):
    """So that every log line has it."""
    door = await open_door(1)
    await events_of(door.generation.Generate(request()))
    assert len(door.fleet.workers[0].requests[0].request_id) == 32


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"model": ""}, "model"),
        ({"prompt": None}, "prompt"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"request_id": "line\nbreak"}, "request_id"),
    ],
)
async def test_a_bad_field_is_named(open_door, wrong, field):
    """Without a call to a worker."""
    door = await open_door(1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(door.generation.Generate(request(**wrong)))
    assert caught.value.code() is Code.INVALID_ARGUMENT
    info, _ = details_of(caught.value)
    assert (info.domain, info.metadata["field"]) == ("vllama", field)
    assert door.fleet.workers[0].requests == []


async def test_a_workers_refusal_arrives_unchanged(open_door):
    """Code, sentence, reason and field."""
    door = await open_door(1)
    door.fleet.workers[0].script = Script(always=InvalidRequest("top_k is -7", reason="BAD", field="sampling.top_k"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(door.generation.Generate(request()))
    info, _ = details_of(caught.value)
    assert (caught.value.code(), caught.value.details()) == (Code.INVALID_ARGUMENT, "top_k is -7")
    assert (info.reason, info.metadata["field"]) == ("BAD", "sampling.top_k")


async def test_an_unknown_model_is_not_found(open_door):
    """With a stable reason."""
    door = await open_door(1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(door.generation.Generate(request(model="nope")))
    assert caught.value.code() is Code.NOT_FOUND
    assert details_of(caught.value)[0].reason == "MODEL_NOT_FOUND"


async def test_a_full_queue_says_when_to_retry(open_door):
    """RESOURCE_EXHAUSTED with RetryInfo."""
    door = await open_door(1, max_streams=1, max_queue=0)
    door.fleet.workers[0].script = Script(pause_after_tokens=1)
    first = door.generation.Generate(request())
    await eventually(lambda: door.fleet.leases == 1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(door.generation.Generate(request()))
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    assert details_of(caught.value)[1].retry_delay.seconds >= 1
    door.fleet.workers[0].go_on.set()
    assert is_whole(await events_of(first))


async def test_an_engine_fault_is_internal(open_door):
    """When no other worker could help."""
    door = await open_door(1)
    door.fleet.workers[0].script = Script(always=fault("out of luck"))
    with pytest.raises(grpc.aio.AioRpcError, match="out of luck") as caught:
        await events_of(door.generation.Generate(request()))
    assert caught.value.code() is Code.INTERNAL


async def test_an_unexpected_exception_is_internal_and_logged(open_door, caplog):
    """The client gets a pointer to the log, without the exception."""
    door = await open_door(1)
    door.fleet.dispatcher._catalog.find = lambda name: 1 / 0
    with pytest.raises(grpc.aio.AioRpcError, match="its log says why") as caught:
        await events_of(door.generation.Generate(request()))
    assert caught.value.code() is Code.INTERNAL
    assert "ZeroDivisionError" in caplog.text


async def test_a_clients_deadline_frees_everything(open_door):
    """In the queue's and the worker's books alike."""
    door = await open_door(1)
    door.fleet.workers[0].script = Script(pause_after_tokens=2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(door.generation.Generate(request(), timeout=0.2))
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    await eventually(lambda: door.fleet.leases == 0 and door.fleet.workers[0].running == 0)


async def test_a_client_that_leaves_frees_everything(open_door):
    """Within a moment."""
    door = await open_door(1)
    door.fleet.workers[0].script = Script(pause_after_tokens=2)
    call = door.generation.Generate(request())
    await eventually(lambda: door.fleet.workers[0].running == 1)
    call.cancel()
    await eventually(lambda: door.fleet.leases == 0 and door.fleet.workers[0].running == 0)


async def test_a_client_that_leaves_the_queue_is_forgotten(open_door):
    """Before it ever had a place."""
    door = await open_door(1, max_streams=1)
    door.fleet.workers[0].script = Script(pause_after_tokens=1)
    first = door.generation.Generate(request())
    await eventually(lambda: door.fleet.leases == 1)
    second = door.generation.Generate(request())
    await eventually(lambda: door.fleet.dispatcher.waiting == 1)
    second.cancel()
    await eventually(lambda: door.fleet.dispatcher.waiting == 0)
    door.fleet.workers[0].go_on.set()
    await events_of(first)


async def test_embeddings_and_tokens_pass(open_door):
    """The unary calls."""
    door = await open_door(1)
    reply = await door.embedding.Embed(embedding_pb2.EmbedRequest(model="m", inputs=["ab", "c"]))
    assert [list(vector.values) for vector in reply.vectors] == [[2.0], [1.0]]
    tokens = await door.generation.Tokenize(generation_pb2.TokenizeRequest(model="m", prompt="hi"))
    text = await door.generation.Detokenize(generation_pb2.DetokenizeRequest(model="m", token_ids=tokens.token_ids))
    assert text.text == "hi"


async def test_health_follows_the_fleet(open_door):
    """SERVING while a worker is available, for every service and for every watcher."""
    door = await open_door(1)
    watches = [door.health.Watch(health_pb2.HealthCheckRequest(service="vllama.v1.Generation")) for _ in range(2)]
    for watch in watches:
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    door.fleet.workers[0].become(worker_pb2.WORKER_STATE_DRAINING)
    for watch in watches:
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watches[0].cancel()
    door.fleet.workers[0].become(worker_pb2.WORKER_STATE_READY)
    assert (await watches[1].read()).status == health_pb2.HealthCheckResponse.SERVING
    assert (await door.health.Check(health_pb2.HealthCheckRequest())).status == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.health.Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() is Code.NOT_FOUND
    watches[1].cancel()


class IdleModels:
    """Models that are loaded on demand; none is loaded."""

    loads_on_demand = True

    def statuses(self):
        """One sleeps."""
        return [fleet_pb2.ModelStatus(model="m:latest", state=fleet_pb2.MODEL_STATE_SLEEPING)]


async def test_a_balancer_that_loads_on_demand_is_healthy_while_idle(open_door):
    """Nothing is loaded, and yet a request would be answered: clients must not be turned away."""
    door = await open_door(1, models=IdleModels())
    door.fleet.workers[0].become(worker_pb2.WORKER_STATE_DRAINING)
    await eventually(lambda: door.fleet.pool.workers()[0].unavailable)
    check = await door.health.Check(health_pb2.HealthCheckRequest())
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    fleet = await fleet_pb2_grpc.FleetStub(door.channel).ListWorkers(fleet_pb2.ListWorkersRequest())
    assert [(one.model, one.state) for one in fleet.models] == [("m:latest", fleet_pb2.MODEL_STATE_SLEEPING)]


async def test_reflection_lists_the_services(open_door):
    """So that grpcurl works without the protos."""
    door = await open_door(1)
    stub = reflection_pb2_grpc.ServerReflectionStub(door.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(iter([asked]))
    names = {service.name for service in (await call.read()).list_services_response.service}
    assert {"vllama.v1.Generation", "vllama.v1.Embedding", "vllama.v1.Fleet", "grpc.health.v1.Health"} <= names
    call.cancel()


async def test_a_port_in_use_is_one_sentence(open_door):
    """Never a second listener that takes half of the calls."""
    door = await open_door(1)
    fleet = door.fleet
    other = GrpcServer(fleet.dispatcher, fleet.pool, RollingRestart(fleet.pool, None), PoolView(fleet.pool, lambda: 0))
    with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{door.port}"):
        await other.start(f"127.0.0.1:{door.port}")
    await other.stop(0)


async def test_stopping_lets_running_streams_finish(open_door):
    """Within the grace, and takes nothing new."""
    door = await open_door(1)
    door.fleet.workers[0].script = Script(pause_after_tokens=2)
    call = door.generation.Generate(request())
    reading = asyncio.create_task(events_of(call))
    await eventually(lambda: door.fleet.workers[0].running == 1)
    stopping = asyncio.create_task(door.front.stop(10))
    door.fleet.workers[0].go_on.set()
    assert is_whole(await reading)
    await stopping


async def test_a_call_that_arrives_during_a_drain_is_unavailable_with_a_reason(open_door):
    """On the connection of a stream that goes on; clients go elsewhere, or come back."""
    limits = ClientLimits()
    door = await open_door(1, limits=limits)
    door.fleet.workers[0].script = Script(pause_after_tokens=2)
    reading = asyncio.create_task(events_of(door.generation.Generate(request())))
    await eventually(lambda: door.fleet.workers[0].running == 1)
    limits.drain()
    door.front.drain()
    calls = [
        lambda: events_of(door.generation.Generate(request())),
        lambda: door.generation.Tokenize(generation_pb2.TokenizeRequest(model="m", prompt="x")),
        lambda: door.embedding.Embed(embedding_pb2.EmbedRequest(model="m", inputs=["x"])),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError, match="shutting down") as caught:
            await call()
        assert caught.value.code() is Code.UNAVAILABLE
        info, retry = details_of(caught.value)
        assert (info.reason, retry.retry_delay.seconds) == ("BALANCER_DRAINING", 1)
    check = await door.health.Check(health_pb2.HealthCheckRequest())
    assert check.status == health_pb2.HealthCheckResponse.NOT_SERVING
    door.fleet.workers[0].go_on.set()
    assert is_whole(await reading)


async def test_calls_without_a_key_are_refused(open_door):
    """When keys are configured; health stays open."""
    door = await open_door(1, access=Access(keys_of(sesame={Scope.INFER})))
    for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "sesame"),)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await events_of(door.generation.Generate(request(), metadata=metadata))
        assert caught.value.code() is Code.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.fleet_service.ListWorkers(fleet_pb2.ListWorkersRequest(), metadata=metadata)
        assert caught.value.code() is Code.UNAUTHENTICATED
    assert (await door.health.Check(health_pb2.HealthCheckRequest())).status == 1
    key = (("authorization", "Bearer sesame"),)
    assert is_whole(await events_of(door.generation.Generate(request(), metadata=key)))


def keys_of(**scopes):
    """Keys with these scopes; each key is its owner's name too."""
    return ApiKeys(
        ApiKey(f"owner of {key}", hashlib.sha256(key.encode()).digest(), frozenset(scopes[key])) for key in scopes
    )


FROM_ELSEWHERE = (("x-forwarded-for", "192.0.2.7"),)
ORDERS = {
    "ListWorkers": fleet_pb2.ListWorkersRequest(),
    "WatchFleet": fleet_pb2.WatchFleetRequest(),
    "DrainWorker": fleet_pb2.DrainWorkerRequest(worker="w0"),
    "RestartWorkers": fleet_pb2.RestartWorkersRequest(),
}


async def order(door, name, metadata):
    """Sends an order to the fleet; of a stream, the first reply."""
    call = getattr(door.fleet_service, name)(ORDERS[name], metadata=metadata)
    if isinstance(call, grpc.aio.UnaryUnaryCall):
        return await call
    try:
        return await call.read()
    finally:
        call.cancel()


@pytest.mark.parametrize("name", ORDERS)
async def test_a_key_for_inference_gives_no_orders(open_door, name):
    """PERMISSION_DENIED with the scope; nothing happens to the workers. A key with the scope gives them."""
    door = await open_door(1, access=Access(keys_of(user={Scope.INFER}, admin={Scope.FLEET})))
    with pytest.raises(grpc.aio.AioRpcError, match="write scope=infer,fleet into its line") as caught:
        await order(door, name, (("x-api-key", "user"),))
    info, _ = details_of(caught.value)
    assert (caught.value.code(), info.reason) == (Code.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert info.metadata["field"] == "fleet"
    assert (door.control.restarted, door.control.retired) == ([], [])
    assert not door.fleet.pool.workers()[0].unavailable
    assert await order(door, name, (("x-api-key", "admin"),)) is not None


@pytest.mark.parametrize("name", ORDERS)
async def test_orders_from_elsewhere_are_refused_without_keys(open_door, name):
    """A proxy's metadata shows that the caller is not on this machine; whoever is on it gives orders."""
    door = await open_door(1)
    with pytest.raises(grpc.aio.AioRpcError, match="--anonymous-scopes infer,fleet,metrics") as caught:
        await order(door, name, FROM_ELSEWHERE)
    assert caught.value.code() is Code.PERMISSION_DENIED
    assert is_whole(await events_of(door.generation.Generate(request(), metadata=FROM_ELSEWHERE)))
    assert await order(door, name, ()) is not None


async def test_a_key_for_the_fleet_does_not_infer(open_door):
    """Scopes do not contain each other."""
    door = await open_door(1, access=Access(keys_of(admin={Scope.FLEET})))
    with pytest.raises(grpc.aio.AioRpcError, match="needs the scope infer") as caught:
        await events_of(door.generation.Generate(request(), metadata=(("x-api-key", "admin"),)))
    assert caught.value.code() is Code.PERMISSION_DENIED


async def test_reflection_needs_a_key_where_keys_are_set(open_door):
    """It streams both ways, and is refused all the same."""
    door = await open_door(1, access=Access(keys_of(sesame={Scope.INFER})))
    stub = reflection_pb2_grpc.ServerReflectionStub(door.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ServerReflectionInfo(iter([asked])).read()
    assert caught.value.code() is Code.UNAUTHENTICATED
    call = stub.ServerReflectionInfo(iter([asked]), metadata=(("x-api-key", "sesame"),))
    assert (await call.read()).list_services_response.service
    call.cancel()


SPELLINGS = [
    [("authorization", "Bearer bob")],
    [("authorization", "Bearer    bob")],
    [("authorization", "bearer bob ")],
    [("authorization", "Basic 7"), ("x-api-key", "bob")],
    [("x-api-key", "bob")],
]


async def test_turns_are_the_owners_however_the_key_is_sent(open_door):
    """Alice's request is second beside many of bob's."""
    door = await open_door(1, max_streams=1, access=Access(keys_of(alice={Scope.INFER}, bob={Scope.INFER})))
    worker = door.fleet.workers[0]
    worker.script = Script(pause_after_tokens=1)
    first = asyncio.create_task(events_of(door.generation.Generate(request(), metadata=SPELLINGS[0])))
    await eventually(lambda: worker.running == 1)
    calls = [first]
    bobs = [(f"bob-{number}", metadata) for number, metadata in enumerate(SPELLINGS)]
    for name, metadata in [*bobs, ("alice", [("x-api-key", "alice")])]:
        call = door.generation.Generate(request(request_id=name), metadata=metadata)
        calls.append(asyncio.create_task(events_of(call)))
        await eventually(lambda: door.fleet.dispatcher.waiting == len(calls) - 1)
    worker.script = Script()
    worker.go_on.set()
    await asyncio.gather(*calls)
    served = [each.request_id for each in worker.requests[1:]]
    assert served.index("alice") <= 1


async def test_without_keys_metadata_makes_no_new_caller(open_door):
    """A made-up key is no identity: the turns are the peer's."""
    door = await open_door(1)
    seen = []
    generate = door.fleet.dispatcher.generate
    door.fleet.dispatcher.generate = lambda request, call: (seen.append(call.client), generate(request, call))[1]
    for number in range(3):
        metadata = [("authorization", f"Bearer made-up-{number}"), ("x-api-key", str(number))]
        await events_of(door.generation.Generate(request(), metadata=metadata))
    assert seen == ["127.0.0.1"] * 3


@pytest.mark.parametrize(
    ("key", "sent", "served"), [("user", -5, 0), ("user", 3, 3), ("admin", -5, -5), ("admin", 3, 3)]
)
async def test_nobody_outranks_others_without_the_scope(open_door, key, sent, served):
    """A lower priority runs first; only a key for the fleet may set one."""
    keys = keys_of(user={Scope.INFER}, admin={Scope.INFER, Scope.FLEET})
    door = await open_door(1, access=Access(keys))
    await events_of(door.generation.Generate(request(priority=sent), metadata=(("x-api-key", key),)))
    assert door.fleet.workers[0].requests[0].priority == served


async def test_a_trusted_proxy_forwards_callers_of_this_machine(open_door):
    """By x-forwarded-for, as over HTTP."""
    door = await open_door(1, access=Access(proxies=[ipaddress.ip_network("127.0.0.1")]))
    assert await order(door, "ListWorkers", (("x-forwarded-for", "127.0.0.1"),))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await order(door, "ListWorkers", FROM_ELSEWHERE)
    assert caught.value.code() is Code.PERMISSION_DENIED


async def test_anonymous_scopes_open_the_fleet(open_door):
    """To callers from elsewhere, if the operator says so."""
    door = await open_door(1, access=Access(anonymous=ALL_SCOPES))
    assert await order(door, "ListWorkers", FROM_ELSEWHERE)


async def test_the_fleet_is_listed(open_door):
    """Every worker, with why it is out when it is."""
    door = await open_door(2)
    door.fleet.workers[0].become(worker_pb2.WORKER_STATE_DRAINING)
    await eventually(lambda: door.fleet.pool.find("w0").unavailable)
    reply = await door.fleet_service.ListWorkers(fleet_pb2.ListWorkersRequest())
    assert [(worker.name, worker.available, worker.reason) for worker in reply.workers] == [
        ("w0", False, "is draining"),
        ("w1", True, ""),
    ]
    assert reply.workers[1].description.max_streams == 8
    assert reply.workers[1].report.state == worker_pb2.WORKER_STATE_READY


async def test_the_fleet_is_watched(open_door):
    """At once, and on changes."""
    door = await open_door(1)
    watch = door.fleet_service.WatchFleet(fleet_pb2.WatchFleetRequest())
    assert (await watch.read()).workers[0].available
    door.fleet.workers[0].become(worker_pb2.WORKER_STATE_DRAINING)
    async with asyncio.timeout(5):
        while (await watch.read()).workers[0].available:
            pass
    watch.cancel()


async def test_a_drained_worker_finishes_its_streams_first(open_door):
    """And is ended afterwards where it was started here."""
    door = await open_door(2)
    for worker in door.fleet.workers:
        worker.script = Script(pause_after_tokens=2)
    reading = asyncio.create_task(events_of(door.generation.Generate(request())))
    await eventually(lambda: sum(worker.running for worker in door.fleet.workers) == 1)
    busy = next(worker for worker in door.fleet.workers if worker.running)
    draining = asyncio.ensure_future(door.fleet_service.DrainWorker(fleet_pb2.DrainWorkerRequest(worker=busy.name)))
    await eventually(lambda: "held" in door.fleet.pool.find(busy.name).unavailable)
    assert not draining.done()
    busy.go_on.set()
    assert is_whole(await reading)
    assert (await draining).remaining_streams == 0
    assert door.control.retired == [busy.name]


async def test_an_unknown_worker_cannot_be_drained(open_door):
    """NOT_FOUND, with its name."""
    door = await open_door(1)
    with pytest.raises(grpc.aio.AioRpcError, match="there is no worker 'ghost'") as caught:
        await door.fleet_service.DrainWorker(fleet_pb2.DrainWorkerRequest(worker="ghost"))
    assert caught.value.code() is Code.NOT_FOUND


async def test_a_rolling_restart_fails_no_request(open_door):
    """One worker after the other, each drained first, while requests keep coming."""
    door = await open_door(3)
    before = {worker.name: worker.boot_id for worker in door.fleet.workers}
    results = []

    async def keep_asking():
        while True:
            results.append(await events_of(door.generation.Generate(request())))

    askers = [asyncio.create_task(keep_asking()) for _ in range(4)]
    lists = await events_of(door.fleet_service.RestartWorkers(fleet_pb2.RestartWorkersRequest()))
    for asker in askers:
        asker.cancel()
    outcomes = await asyncio.gather(*askers, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert door.control.restarted == ["w0", "w1", "w2"]
    assert len(lists) == 3
    assert results
    assert all("".join(event.delta.text for event in events) == text_of(8) for events in results)
    assert all(worker.boot_id != before[worker.name] for worker in door.fleet.workers)


async def test_a_rolling_restart_stops_at_the_first_worker_that_does_not_come_back(open_door):
    """The error says which, why, and what was not touched; the others serve."""
    door = await open_door(3)

    async def fail(name):
        await next(worker for worker in door.fleet.workers if worker.name == name).die()
        door.fleet.pool.apply(Changed(name, ProcessState.FAILED, "failed to start 3 times: no such release"))

    door.control.restart = fail
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(door.fleet_service.RestartWorkers(fleet_pb2.RestartWorkersRequest()))
    assert caught.value.code() is Code.FAILED_PRECONDITION
    assert caught.value.details() == (
        "worker w0 did not come back: it failed to start 3 times: no such release; not restarted: w1, w2"
    )
    assert [worker.name for worker in door.fleet.pool.workers() if not worker.unavailable] == ["w1", "w2"]


async def test_a_cancelled_drain_leaves_the_worker_in_service(open_door):
    """Ctrl-C of the command: the call ends, and the worker takes requests again."""
    door = await open_door(1)
    worker = door.fleet.workers[0]
    worker.script = Script(pause_after_tokens=2)
    reading = asyncio.create_task(events_of(door.generation.Generate(request())))
    await eventually(lambda: worker.running == 1)
    draining = door.fleet_service.DrainWorker(fleet_pb2.DrainWorkerRequest(worker="w0"))
    await eventually(lambda: "held" in door.fleet.pool.find("w0").unavailable)
    draining.cancel()
    await eventually(lambda: not door.fleet.pool.find("w0").unavailable)
    worker.go_on.set()
    assert is_whole(await reading)


async def test_a_drain_is_taken_back(open_door):
    """By a call; its own caller is told."""
    door = await open_door(1)
    worker = door.fleet.workers[0]
    worker.script = Script(pause_after_tokens=2)
    reading = asyncio.create_task(events_of(door.generation.Generate(request())))
    await eventually(lambda: worker.running == 1)
    draining = asyncio.ensure_future(door.fleet_service.DrainWorker(fleet_pb2.DrainWorkerRequest(worker="w0")))
    await eventually(lambda: "held" in door.fleet.pool.find("w0").unavailable)
    await door.fleet_service.UndrainWorker(fleet_pb2.UndrainWorkerRequest(worker="w0"))
    with pytest.raises(grpc.aio.AioRpcError, match="was taken back") as caught:
        await draining
    assert caught.value.code() is Code.FAILED_PRECONDITION
    assert not door.fleet.pool.find("w0").unavailable
    worker.go_on.set()
    assert is_whole(await reading)


@pytest.mark.parametrize(
    ("worker", "code", "message"),
    [
        ("ghost", Code.NOT_FOUND, "there is no worker 'ghost'"),
        ("w0", Code.FAILED_PRECONDITION, "worker w0 is not drained by this balancer"),
    ],
)
async def test_nothing_to_take_back_is_an_error(open_door, worker, code, message):
    """With the worker's name."""
    door = await open_door(1)
    with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
        await door.fleet_service.UndrainWorker(fleet_pb2.UndrainWorkerRequest(worker=worker))
    assert caught.value.code() is code


class Unloader:
    """Unloads the model m."""

    async def unload_model(self, name):
        """Refuses every other one."""
        if name != "m":
            raise ModelNotFound(f"model '{name}' not found", field="model")
        return fleet_pb2.UnloadModelResponse(model="m:latest", outcome=fleet_pb2.UNLOAD_OUTCOME_UNLOADED)


async def test_a_model_is_unloaded(open_door):
    """By its name; an unknown one is not found."""
    door = await open_door(1, unloader=Unloader())
    reply = await door.fleet_service.UnloadModel(fleet_pb2.UnloadModelRequest(model="m"))
    assert (reply.model, reply.outcome) == ("m:latest", fleet_pb2.UNLOAD_OUTCOME_UNLOADED)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.fleet_service.UnloadModel(fleet_pb2.UnloadModelRequest(model="x"))
    assert caught.value.code() is Code.NOT_FOUND
    assert details_of(caught.value)[0].metadata["field"] == "model"


async def test_models_of_workers_elsewhere_are_not_unloaded(open_door):
    """FAILED_PRECONDITION, with the place where to do it."""
    door = await open_door(1)
    with pytest.raises(grpc.aio.AioRpcError, match="stop their workers where they run") as caught:
        await door.fleet_service.UnloadModel(fleet_pb2.UnloadModelRequest(model="m"))
    assert caught.value.code() is Code.FAILED_PRECONDITION


async def test_workers_that_were_not_started_here_are_not_restarted(open_door):
    """FAILED_PRECONDITION, with the place where to do it."""
    door = await open_door(1, owned=False)
    with pytest.raises(grpc.aio.AioRpcError, match="not started by this balancer") as caught:
        await events_of(door.fleet_service.RestartWorkers(fleet_pb2.RestartWorkersRequest()))
    assert caught.value.code() is Code.FAILED_PRECONDITION


async def test_a_client_cannot_call_its_template_the_models_own(open_door):
    """Workers render templates of the store without asking; a prompt is not touched."""
    door = await open_door(1)
    chat = generation_pb2.Chat(template="{{ messages }}", template_is_stored=True)
    chat.messages.add(role="user", content="hi")
    await events_of(door.generation.Generate(generation_pb2.GenerateRequest(model="m", chat=chat)))
    await door.generation.Tokenize(generation_pb2.TokenizeRequest(model="m", chat=chat))
    await door.generation.Tokenize(generation_pb2.TokenizeRequest(model="m", prompt="hi"))
    (worker,) = door.fleet.workers
    generated, tokenized, plain = (worker.requests[-1], *worker.tokenized)
    for received in (generated, tokenized):
        assert received.chat.template == "{{ messages }}"
        assert not received.chat.template_is_stored
    assert plain.prompt == "hi"


@pytest.fixture
async def narrow_door(make_fleet):
    """A server with one stream for each client and few bytes."""
    fleet = await make_fleet(1)
    limits = ClientLimits(lambda: 1, 1_000_000)
    view = PoolView(fleet.pool, lambda: 0)
    front = GrpcServer(
        fleet.dispatcher,
        fleet.pool,
        RollingRestart(fleet.pool, None),
        view,
        limits=limits,
        request_limits=RequestLimits(text_bytes=400_000),
    )
    port = await front.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Served(fleet, front, channel, port), limits
    await front.stop(0)


async def test_a_client_has_as_many_streams_as_over_http(narrow_door):
    """One more is RESOURCE_EXHAUSTED, with the time of a retry; all are given back."""
    door, limits = narrow_door
    with limits.streams.hold("127.0.0.1"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await events_of(door.generation.Generate(request()))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details_of(caught.value)[1].retry_delay.seconds == 1
    assert is_whole(await events_of(door.generation.Generate(request())))
    assert limits.streams.running("127.0.0.1") == 0


async def test_bytes_in_flight_are_bounded_over_grpc(narrow_door):
    """They count in the same budget as those of HTTP."""
    door, limits = narrow_door
    with limits.bytes.request("127.0.0.1") as held:
        held.add(400_000)
        with pytest.raises(grpc.aio.AioRpcError, match="max-inflight-bytes"):
            await events_of(door.generation.Generate(request(prompt="x" * 300_000)))
    assert is_whole(await events_of(door.generation.Generate(request(prompt="x" * 300_000))))
    assert limits.bytes.held_bytes == 0


async def test_requests_over_their_budget_are_invalid(narrow_door):
    """Of every method; the error names the field."""
    door, _ = narrow_door
    text = "x" * 400_000
    for call, field in (
        (door.generation.Generate(request(prompt=text)).read(), "prompt"),
        (door.generation.Tokenize(generation_pb2.TokenizeRequest(model="m", prompt=text)), "prompt"),
        (door.generation.Detokenize(generation_pb2.DetokenizeRequest(model="m" * 2_000)), "model"),
        (door.embedding.Embed(embedding_pb2.EmbedRequest(model="m", inputs=["x"] * 2_049)), "inputs"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details_of(caught.value)[0].metadata["field"] == field


async def test_streams_of_the_fleet_are_bounded(open_door):
    """One more than 64 is RESOURCE_EXHAUSTED; the end of one makes room."""
    door = await open_door(1)
    calls = [door.fleet_service.WatchFleet(fleet_pb2.WatchFleetRequest()) for _ in range(64)]
    for call in calls:
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.fleet_service.WatchFleet(fleet_pb2.WatchFleetRequest()).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    calls.pop().cancel()
    async with asyncio.timeout(20):
        while True:
            try:
                await door.fleet_service.WatchFleet(fleet_pb2.WatchFleetRequest()).read()
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
    for call in calls:
        call.cancel()


async def test_a_long_client_text_in_an_error_leaves_its_status_whole(open_door):
    """The balancer's own errors fit gRPC's metadata as the workers' do."""
    door = await open_door(1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(door.generation.Generate(generation_pb2.GenerateRequest(model="\u6f22" * 9_000, prompt="x")))
    assert caught.value.code() in (Code.NOT_FOUND, Code.INVALID_ARGUMENT)
