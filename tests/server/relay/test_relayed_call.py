"""vllama.v1.Worker/Relay over a real channel: many generations on one call."""

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from hashlib import sha256

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from tests.server.conftest import FLAT_OUT, PATIENCE_SECONDS
from tests.server.engines import accepted, completed, started
from vllama_protos.v1 import generation_pb2, worker_pb2
from vllama_server.engine.events import delta
from vllama_server.errors import CapabilityMissing
from vllama_server.fake_engine.engine import FakeEngine
from vllama_server.fake_engine.simulation_profile import SimulationProfile
from vllama_server.relay.flow_control import UNANSWERED_BYTES
from vllama_server.relay.relayed_call import MESSAGES_UNDER_WAY
from vllama_server.serving import ExitStatus

READY = worker_pb2.RelayRequest(ready=worker_pb2.RelayReady())


class Caller:
    """The other end of one Relay call."""

    def __init__(self, call) -> None:
        self.call = call
        self.asks = True
        """True if it asks for more after every message."""
        self.unanswered = 0
        """Messages that wait for its answer."""
        self.is_dead = False
        """True if the engine was made to die: the call ends with its next message."""
        self.events = defaultdict(list)
        """The events so far, by generation."""

    async def start(self, stream: int, prompt: str = "hello", max_tokens: int = 5, **fields: object) -> None:
        """Begins a generation."""
        sampling = generation_pb2.Sampling(max_tokens=max_tokens)
        request = generation_pb2.GenerateRequest(prompt=prompt, sampling=sampling, request_id=fields.pop("id", ""))
        await self.call.write(
            worker_pb2.RelayRequest(stream=stream, start=worker_pb2.RelayStart(request=request, **fields))
        )

    async def cancel(self, stream: int) -> None:
        """Ends a generation."""
        await self.call.write(worker_pb2.RelayRequest(stream=stream, cancel=worker_pb2.RelayCancel()))

    async def until(self, condition) -> None:
        """Reads until the events are as they should be."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                message = await self.call.read()
                assert message is not grpc.aio.EOF
                self.unanswered += not message.needs_no_ready
                for event in message.events:
                    self.events[event.stream].append(event)
                # A call that ends while something is written to it has no status of its own.
                if self.asks and not self.is_dead:
                    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call may just have ended
                        await self.call.write(READY)

    def has_ended(self, stream: int) -> bool:
        """Returns whether the last event has come."""
        last = self.events[stream][-1:]
        return bool(last) and (last[0].HasField("status") or last[0].response.HasField("finished"))

    def text(self, stream: int) -> str:
        """The text of a generation."""
        return "".join(event.response.delta.text for event in self.events[stream])

    def error(self, stream: int) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo]:
        """The error of a generation."""
        status, info = status_pb2.Status.FromString(self.events[stream][-1].status), error_details_pb2.ErrorInfo()
        if status.details:
            assert status.details[0].Unpack(info)
        return status, info


@asynccontextmanager
async def relay(worker):
    """Opens a call and cancels it at the end."""
    call = worker.worker.Relay()
    try:
        yield Caller(call)
    finally:
        call.cancel()


def expected(prompt: str, tokens: int) -> str:
    """Returns the text of the simulated engine."""
    mark = sha256(prompt.encode()).hexdigest()[:4]
    return "".join(f" {mark}.{index}" for index in range(tokens))


async def test_a_worker_says_that_it_relays(start_worker):
    """Balancers ask before they use it."""
    worker = await start_worker()
    assert (await worker.worker.Describe(worker_pb2.DescribeRequest())).can_relay


async def test_every_generation_gets_its_own_events(start_worker):
    """Started, deltas, finished, for each as if it had a call of its own."""
    worker = await start_worker()
    async with relay(worker) as caller:
        for stream in range(20):
            await caller.start(stream, f"prompt {stream}", 30)
        await caller.until(lambda: all(map(caller.has_ended, range(20))))
    for stream in range(20):
        assert caller.text(stream) == expected(f"prompt {stream}", 30)
        kinds = [event.response.WhichOneof("event") for event in caller.events[stream]]
        assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("started", "finished", {"delta"})
        assert caller.events[stream][-1].response.finished.usage.completion_tokens == 30


async def test_an_error_ends_only_its_generation(start_worker):
    """It carries the status and the details that a call of its own would have ended with."""
    worker = await start_worker()
    async with relay(worker) as caller:
        await caller.start(1, "")
        await caller.start(2)
        await caller.until(lambda: caller.has_ended(1) and caller.has_ended(2))
    status, info = caller.error(1)
    assert (status.code, info.reason, info.metadata["field"]) == (3, "INVALID_REQUEST", "prompt")
    assert status.message
    assert caller.text(2) == expected("hello", 5)


@pytest.mark.parametrize(
    "limit",
    [
        duration_pb2.Duration(seconds=10**18),
        duration_pb2.Duration(seconds=2**63 - 1, nanos=2**31 - 1),
        duration_pb2.Duration(seconds=1000, nanos=-1),
    ],
)
async def test_any_timeout_in_the_future_is_time_enough(start_worker, limit):
    """A timeout that no date can hold ends nothing: the generation gets its events."""
    worker = await start_worker()
    async with relay(worker) as caller:
        await caller.start(1, timeout=limit)
        await caller.until(lambda: caller.has_ended(1))
    assert caller.text(1) == expected("hello", 5)


async def test_a_timeout_in_the_past_is_over_at_once(start_worker):
    """Also one that no date can hold: its status comes."""
    worker = await start_worker()
    async with relay(worker) as caller:
        await caller.start(1, timeout=duration_pb2.Duration(seconds=-(2**63)))
        await caller.until(lambda: caller.has_ended(1))
    assert caller.error(1)[0].code == 4


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (CapabilityMissing("blind", worker_pb2.CAPABILITY_VISION), 9, "CAPABILITY_MISSING"),
        (RuntimeError("secret"), 13, "ENGINE_FAULT"),
    ],
)
async def test_errors_of_the_engine_become_statuses(start_worker, error, code, reason):
    """The text of a foreign exception is not shown."""
    worker = await start_worker(started(accepted(), error))
    async with relay(worker) as caller:
        await caller.start(1)
        await caller.until(lambda: caller.has_ended(1))
    status, info = caller.error(1)
    assert (status.code, info.reason) == (code, reason)
    assert "secret" not in status.message


async def test_a_wrong_request_id_is_refused_and_a_missing_one_made(start_worker):
    """As on a call of its own."""
    engine = started()
    worker = await start_worker(engine)
    async with relay(worker) as caller:
        await caller.start(1, id="a\nb")
        await caller.start(2)
        await caller.until(lambda: caller.has_ended(1) and caller.has_ended(2))
    assert caller.error(1)[1].metadata["field"] == "request_id"
    assert engine.requests[0].request_id


async def test_a_cancelled_generation_is_closed_and_the_others_go_on(start_worker):
    """Nothing more comes of it."""
    engine = started(accepted(), delta("a", [1]), completed())
    engine.may_end.clear()
    worker = await start_worker(engine)
    async with relay(worker) as caller:
        await caller.start(1)
        await caller.start(2)
        await caller.until(lambda: caller.text(1) == "a" and caller.text(2) == "a")
        await caller.cancel(1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await engine.closed.wait()
        await caller.cancel(1)
        engine.may_end.set()
        await caller.until(lambda: caller.has_ended(2))
    assert not caller.has_ended(1)


async def test_a_caller_that_leaves_ends_all_its_generations(start_worker):
    """Their places are free again."""
    engine = started(accepted(), completed())
    engine.may_end.clear()
    worker = await start_worker(engine)
    async with relay(worker) as caller:
        await caller.start(1)
        await caller.start(2)
        await caller.until(lambda: caller.events[1] and caller.events[2])
        assert worker.registry.get_sample_value("vllama_worker_requests_in_flight") == 2
    async with asyncio.timeout(PATIENCE_SECONDS):
        while worker.registry.get_sample_value("vllama_worker_requests_in_flight"):
            await asyncio.sleep(0.005)
    ended = {"method": "Generate", "code": "CANCELLED"}
    assert worker.registry.get_sample_value("vllama_worker_requests_total", ended) == 2


async def test_a_deadline_ends_its_generation(start_worker):
    """The engine is freed by the worker itself."""
    engine = started(accepted(), completed())
    engine.may_end.clear()
    worker = await start_worker(engine)
    async with relay(worker) as caller:
        await caller.start(1, timeout=duration_pb2.Duration(nanos=20_000_000))
        await caller.until(lambda: caller.has_ended(1))
    assert caller.error(1)[0].code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert engine.closed.is_set()
    ended = {"method": "Generate", "code": "DEADLINE_EXCEEDED"}
    assert worker.registry.get_sample_value("vllama_worker_requests_total", ended) == 1


async def test_a_number_in_use_ends_the_call(start_worker):
    """Two generations of one number would be mixed up."""
    engine = started()
    engine.may_end.clear()
    worker = await start_worker(engine)
    async with relay(worker) as caller:
        caller.asks = False
        await caller.start(1)
        await caller.start(1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.until(lambda: False)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_running_generations_finish_after_the_last_request(start_worker):
    """Closing one's side loses nothing."""
    worker = await start_worker()
    async with relay(worker) as caller:
        await caller.start(1, max_tokens=50)
        await caller.call.done_writing()
        caller.asks = False
        await caller.until(lambda: caller.has_ended(1))
        assert await caller.call.read() is grpc.aio.EOF
    assert caller.text(1) == expected("hello", 50)


async def test_a_long_generation_finishes_after_the_last_request(start_worker):
    """A caller that can ask for nothing more gets all, beyond the messages that it had granted."""
    worker = await start_worker(FakeEngine(FLAT_OUT, context_tokens=8192))
    async with relay(worker) as caller:
        await caller.start(1, max_tokens=5000)
        await caller.call.done_writing()
        caller.asks = False
        await caller.until(lambda: caller.has_ended(1))
        assert await caller.call.read() is grpc.aio.EOF
    assert caller.text(1) == expected("hello", 5000)


async def test_the_pending_text_of_a_cancelled_generation_is_not_sent(start_worker):
    """What lay in the send buffer when the caller cancelled is dropped, and its number is free again."""
    texts = [letter * UNANSWERED_BYTES for letter in "abc"]
    engine = started(accepted(), *(delta(text, [1]) for text in texts), completed())
    engine.may_end.clear()
    worker = await start_worker(engine)
    async with relay(worker) as caller:
        caller.asks = False
        await caller.start(1)
        await caller.until(lambda: caller.unanswered == MESSAGES_UNDER_WAY)
        assert caller.text(1) == texts[0] + texts[1]
        await caller.cancel(1)
        await worker.generations_ended("CANCELLED")
        engine.may_end.set()
        caller.asks = True
        await caller.call.write(READY)
        await caller.start(1)
        await caller.until(lambda: caller.has_ended(1))
    assert caller.text(1) == "".join([*texts[:2], *texts])


async def test_a_caller_that_does_not_ask_gets_little_and_then_all_in_one(start_worker):
    """Pending output merges, beyond a few kilobytes of small messages, whatever the connection could hold."""
    worker = await start_worker(FakeEngine(SimulationProfile(step_seconds=0.0001)))
    async with relay(worker) as caller:
        caller.asks = False
        await caller.start(1, max_tokens=2000)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while worker.engine.load().running or not caller.events[1]:
                await caller.until(lambda: caller.events[1])
                await asyncio.sleep(0.005)
        caller.asks = True
        await caller.call.write(READY)
        await caller.until(lambda: caller.has_ended(1))
    assert caller.text(1) == expected("hello", 2000)
    # At least 20 bytes each: what may be under way, and then the rest as one or two.
    assert len(caller.events[1]) < MESSAGES_UNDER_WAY * UNANSWERED_BYTES / 20 + 5


async def test_an_engine_that_dies_ends_every_generation(start_worker):
    """Each has the cause, the call ends, and the worker ends at once."""
    engine = started(accepted(), completed())
    engine.may_end.clear()
    worker = await start_worker(engine)
    async with relay(worker) as caller:
        await caller.start(1)
        await caller.start(2)
        await caller.until(lambda: caller.events[1] and caller.events[2])
        caller.is_dead = True
        engine.die("out of memory")
        await caller.until(lambda: caller.has_ended(1) and caller.has_ended(2))
        for stream in (1, 2):
            status, info = caller.error(stream)
            assert (status.code, info.reason) == (14, "ENGINE_DEAD")
            assert "out of memory" in status.message
        assert await caller.call.read() is grpc.aio.EOF
        assert await worker.exit_status() is ExitStatus.ENGINE_DIED


async def test_a_draining_worker_finishes_and_refuses(start_worker):
    """Running generations finish, new ones are refused."""
    engine = started(accepted(), delta("a", [1]), completed())
    engine.may_end.clear()
    worker = await start_worker(engine)
    async with relay(worker) as caller:
        await caller.start(1)
        await caller.until(lambda: caller.events[1])
        worker.stops.request()
        await caller.start(2)
        await caller.until(lambda: caller.has_ended(2))
        assert caller.error(2)[1].reason == "WORKER_DRAINING"
        engine.may_end.set()
        await caller.until(lambda: caller.has_ended(1))
        assert caller.text(1) == "a"
        assert await worker.exit_status() is ExitStatus.STOPPED
