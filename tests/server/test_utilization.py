"""The averages from which clients weigh a worker.

The load report in the trailers of a generation.

gRPC clients keep this trailer to themselves - it is for their balancing policies - so the test
reads it from the wire.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.server.engines import started
from tests.server.statuses import all_of
from tests.server.wiretap import wiretap
from vllama_protos.v1 import generation_pb2
from vllama_protos.v1.generation_pb2_grpc import GenerationStub
from vllama_server.engine.protocol import EngineLoad
from vllama_server.errors import EngineFault
from vllama_server.utilization import LOAD_REPORT_TRAILER, Utilization, load_report


class Clock:
    """Time that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        """The present."""
        return self.now


def serve(utilization, clock, seconds, at_once, rounds):
    """Runs `rounds` rounds of streams that each take so long, so many at once."""
    for _ in range(rounds):
        with ExitStack() as inside:
            for _ in range(at_once):
                inside.enter_context(utilization.stream())
            clock.now += seconds


@pytest.mark.parametrize("rounds", [1, 3, 100])
@pytest.mark.parametrize("at_once", [1, 8])
def test_the_weight_is_what_one_stream_takes(rounds, at_once):
    """Completed streams per second by streams inside is one by a stream's time, from the first stream on."""
    clock = Clock()
    utilization = Utilization(clock)
    serve(utilization, clock, 0.5, at_once, rounds)
    assert utilization.streams / utilization.completed_per_second == pytest.approx(0.5, rel=0.03)


def test_an_idle_worker_keeps_its_weight():
    """Both averages decay alike, so the weight stays while no call comes."""
    clock = Clock()
    utilization = Utilization(clock)
    serve(utilization, clock, 2.0, 4, 5)
    before = utilization.completed_per_second / utilization.streams
    clock.now += 60
    assert utilization.completed_per_second / utilization.streams == pytest.approx(before)
    assert utilization.streams < 0.05


def test_failed_streams_do_not_count_as_work():
    """A worker that fails at once must not look fast."""
    clock = Clock()
    utilization = Utilization(clock)
    with pytest.raises(RuntimeError), utilization.stream():
        raise RuntimeError
    assert utilization.completed_per_second == 0


def test_waiting_shows_as_more_streams():
    """Streams that do not end fill the average up to their number."""
    clock = Clock()
    utilization = Utilization(clock, window_seconds=1.0)
    with ExitStack() as inside:
        for _ in range(3):
            inside.enter_context(utilization.stream())
        clock.now += 50
        assert utilization.streams == pytest.approx(3)


LOAD = EngineLoad(running=32, waiting=64, kv_cache_use=0.25, queued_prompt_tokens=9)


def decoded(data):
    """Decodes an xds.data.orca.v3.OrcaLoadReport by its published schema."""
    file = descriptor_pb2.FileDescriptorProto(name="orca.proto", package="xds.data.orca.v3", syntax="proto3")
    message = file.message_type.add(name="OrcaLoadReport")
    for name, number in (
        ("cpu_utilization", 1),
        ("mem_utilization", 2),
        ("rps_fractional", 6),
        ("application_utilization", 9),
    ):
        message.field.add(name=name, number=number, type=1, label=1)
    entry = message.nested_type.add(name="NamedMetricsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(name="value", number=2, type=1, label=1)
    type_name = ".xds.data.orca.v3.OrcaLoadReport.NamedMetricsEntry"
    message.field.add(name="named_metrics", number=8, type=11, label=3, type_name=type_name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("xds.data.orca.v3.OrcaLoadReport"))
    return kind.FromString(data)


def test_the_report_is_what_the_published_schema_reads():
    """Every field lands where Envoy and gRPC look for it; waiting requests push the utilization above 1."""
    now = [0.0]
    utilization = Utilization(lambda: now[0])
    with ExitStack() as inside:
        for _ in range(96):
            inside.enter_context(utilization.stream())
        now[0] = 1000.0
    report = decoded(load_report(LOAD, utilization, 64))
    assert report.mem_utilization == 0.25
    assert report.application_utilization == pytest.approx(1.5)
    assert report.rps_fractional == pytest.approx(9.6)
    assert report.cpu_utilization == 0.0
    assert dict(report.named_metrics) == {
        "vllama.running": 32.0,
        "vllama.waiting": 64.0,
        "vllama.queued_prompt_tokens": 9.0,
    }


@pytest.mark.parametrize("end", [None, EngineFault("broke")])
async def test_every_generation_sends_its_report(start_worker, tmp_path, end):
    """The trailer goes out when a generation ends well, and when it fails."""
    engine = started() if end is None else started(end)
    engine.reported = LOAD
    worker = await start_worker(engine)
    path = tmp_path / "tap"
    tap = wiretap(path, worker.server.address.removeprefix("unix:"))
    async with tap as heard, grpc.aio.insecure_channel(f"unix:{path}") as channel:
        with suppress(grpc.aio.AioRpcError):
            await all_of(GenerationStub(channel).Generate(generation_pb2.GenerateRequest(prompt="x")))
    # A header of a new name: its length and the name, then the value's length, a zero for "binary", the value.
    _, found, rest = heard.partition(LOAD_REPORT_TRAILER.encode())
    assert found
    length = rest[0]
    assert rest[1] == 0
    report = decoded(bytes(rest[2 : 1 + length]))
    assert report.mem_utilization == 0.25
    assert report.application_utilization > 0
    assert (report.rps_fractional > 0) == (end is None)
