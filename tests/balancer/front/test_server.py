"""The gRPC front door, through a real channel."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.balancer.front.front_door import Code, details_of, events_of, is_whole, request
from tests.balancer.scripted_worker import Script, eventually, fault
from vllama_balancer.client_limits import ClientLimits
from vllama_balancer.errors import ConfigError, InvalidRequest
from vllama_balancer.front.server import GrpcServer
from vllama_balancer.startup.fleet_view import PoolView
from vllama_balancer.workers.rolling_restart import RollingRestart
from vllama_protos.v1 import (
    embedding_pb2,
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2,
    worker_pb2,
)


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
