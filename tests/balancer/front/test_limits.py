"""What one client may have at once over gRPC."""

import asyncio

import grpc
import pytest

from tests.balancer.front.front_door import Code, Served, details_of, events_of, is_whole, request
from vllama_balancer.client_limits import ClientLimits
from vllama_balancer.front.server import GrpcServer
from vllama_balancer.startup.fleet_view import PoolView
from vllama_balancer.workers.rolling_restart import RollingRestart
from vllama_protos.budgets import RequestLimits
from vllama_protos.v1 import (
    embedding_pb2,
    fleet_pb2,
    generation_pb2,
)


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
