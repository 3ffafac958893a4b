"""grpc.health.v1 and reflection of a worker."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from tests.server.engines import ScriptedEngine, started
from tests.server.statuses import error_of
from vllama_server.serving import SERVICES

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def check(worker, service=""):
    """Asks for the status of a service."""
    request = health_pb2.HealthCheckRequest(service=service)
    return (await HealthStub(worker.channel).Check(request, wait_for_ready=True)).status


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_a_service_is_healthy_once_the_engine_serves(start_worker, service):
    """NOT_SERVING while it starts, SERVING afterwards, for the worker and each of its services."""
    engine = ScriptedEngine()
    worker = await start_worker(engine, ready=False)
    watch = HealthStub(worker.channel).Watch(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True)
    assert (await watch.read()).status == NOT_SERVING
    assert await check(worker, service) == NOT_SERVING
    engine.may_start.set()
    assert (await watch.read()).status == SERVING
    assert await check(worker, service) == SERVING


async def test_a_dead_engine_is_unhealthy(start_worker):
    """Watchers learn it before the process ends."""
    engine = started()
    worker = await start_worker(engine)
    watches = [HealthStub(worker.channel).Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
    assert [(await watch.read()).status for watch in watches] == [SERVING] * 3
    engine.die("boom")
    async with asyncio.timeout(5):
        assert [(await watch.read()).status for watch in watches] == [NOT_SERVING] * 3


async def test_an_unknown_service_is_not_found(start_worker):
    """Check refuses it; Watch says SERVICE_UNKNOWN, as the standard asks."""
    worker = await start_worker()
    error = await error_of(HealthStub(worker.channel).Check(health_pb2.HealthCheckRequest(service="nope")))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    watch = HealthStub(worker.channel).Watch(health_pb2.HealthCheckRequest(service="nope"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_reflection_lists_every_service(start_worker):
    """Grpcurl can list and describe what is here."""
    worker = await start_worker()
    call = ServerReflectionStub(worker.channel).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in (await call.read()).list_services_response.service}
    assert names == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="vllama.v1.Generation"))
    assert (await call.read()).file_descriptor_response.file_descriptor_proto
    await call.done_writing()
