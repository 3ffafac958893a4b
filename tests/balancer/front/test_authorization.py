"""The rights of gRPC callers: keys, scopes, turns, and who is local."""

import asyncio
import hashlib
import ipaddress

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.balancer.front.front_door import Code, details_of, events_of, is_whole, request
from tests.balancer.scripted_worker import Script, eventually
from vllama_balancer.callers import Access
from vllama_balancer.keys import ALL_SCOPES, ApiKey, ApiKeys, Scope
from vllama_protos.v1 import (
    fleet_pb2,
)


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
