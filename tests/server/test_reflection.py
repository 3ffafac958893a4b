"""Generic tools find the services, calls and messages."""

from tests.server.reflection_listing import listing
from vllama_protos.v1 import embedding_pb2, generation_pb2, worker_pb2


async def test_every_service_is_listed_with_its_calls(start_worker):
    """The wire's own services, health and reflection itself."""
    worker = await start_worker()
    text = await listing(worker.channel)
    services = [line for line in text.splitlines() if not line.startswith(" ")]
    assert sorted(services) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "vllama.v1.Embedding",
        "vllama.v1.Generation",
        "vllama.v1.Worker",
    ]
    generate = "rpc Generate(vllama.v1.GenerateRequest) returns (stream vllama.v1.GenerateResponse)"
    assert f"vllama.v1.Generation\n  {generate}\n" in text
    assert "rpc Check(grpc.health.v1.HealthCheckRequest) returns (grpc.health.v1.HealthCheckResponse)" in text
    for file in (generation_pb2, embedding_pb2, worker_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            assert all(f"rpc {method.name}(" in text for method in service.methods)
