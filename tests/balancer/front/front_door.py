"""A running gRPC front door over scripted workers, and what its tests ask and read."""

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from tests.balancer.scripted_worker import text_of
from vllama_protos.v1 import (
    embedding_pb2_grpc,
    fleet_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
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
