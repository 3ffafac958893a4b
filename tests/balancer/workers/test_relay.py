"""Generations over one shared call to a real gRPC server, and what becomes of them when the call breaks."""

import asyncio
import contextlib

import grpc
import pytest

from tests.balancer.scripted_worker import ScriptedWorker, eventually, fault, text_of
from vllama_balancer.workers.attempt_errors import FailureKind, classify_failure
from vllama_balancer.workers.channel import MAX_RELAYED_BYTES, SeparateGeneration, open_channel
from vllama_balancer.workers.relay import RelayConnection
from vllama_protos.v1 import generation_pb2, worker_pb2


@pytest.fixture
async def worker(tmp_path):
    """A worker that relays."""
    worker = ScriptedWorker("w0", f"unix:{tmp_path}/w0", max_streams=64)
    worker.can_relay = True
    await worker.start()
    yield worker
    await worker.die()


@pytest.fixture
async def channel(worker):
    """A channel to it; closing leaves no task behind."""
    channel = open_channel(worker.address)
    yield channel
    await channel.close()
    # The reader, and gRPC's task that reads the outgoing messages; the worker in this process has tasks of its own.
    await eventually(lambda: not any(_is_of_a_call(task) for task in asyncio.all_tasks()))


def _is_of_a_call(task: asyncio.Task[object]) -> bool:
    name = getattr(task.get_coro(), "__qualname__", "")
    return name.startswith("RelayConnection.") or name.endswith("._consume_request_iterator")


def request(prompt: str = "hello", tokens: int = 8) -> generation_pb2.GenerateRequest:
    """A few tokens."""
    return generation_pb2.GenerateRequest(prompt=prompt, sampling=generation_pb2.Sampling(max_tokens=tokens))


async def read(call) -> str:
    """Reads to the end and returns the text."""
    events = [response async for _, response in call]
    assert events[-1].HasField("finished")
    return "".join(event.delta.text for event in events)


async def error_of(call) -> grpc.aio.AioRpcError:
    """Reads to the error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value


async def test_many_generations_share_a_call(worker, channel):
    """Each is whole."""
    calls = [channel.generate(request(tokens=count), None, can_relay=True) for count in range(1, 30)]
    assert await asyncio.gather(*map(read, calls)) == [text_of(count) for count in range(1, 30)]


async def test_a_message_is_answered_unless_the_worker_goes_on_without(worker, channel):
    """`started`, eight tokens and `finished` are ten messages."""
    for needs_no_ready in (False, True, False):
        worker.needs_no_ready = needs_no_ready
        assert await read(channel.generate(request(tokens=8), None, can_relay=True)) == text_of(8)
    await eventually(lambda: worker.ready_orders >= 20)
    assert worker.ready_orders == 20


async def test_an_error_is_read_as_from_a_call_of_its_own(worker, channel):
    """Code, reason and message are there; the others go on."""
    worker.script.errors = [fault("the engine stumbled")]
    call = channel.generate(request(), None, can_relay=True)
    failure = classify_failure(await error_of(call), "w0")
    assert (failure.kind, failure.error.reason) == (FailureKind.FAULT, "ENGINE_FAULT")
    assert "the engine stumbled" in str(failure)
    assert await read(channel.generate(request(), None, can_relay=True)) == text_of(8)


async def test_a_crash_ends_every_generation_and_the_next_incarnation_gets_a_new_call(worker, channel):
    """Each is lost as on a call of its own."""
    worker.script.pause_after_tokens = 4
    calls = [channel.generate(request(), None, can_relay=True) for _ in range(5)]
    reading = [asyncio.create_task(error_of(call)) for call in calls]
    await eventually(lambda: worker.running == 5)
    await worker.die()
    for error in await asyncio.gather(*reading):
        assert classify_failure(error, "w0").kind is FailureKind.LOST
    worker.script.pause_after_tokens = None
    await worker.start()

    async def whole() -> str:
        # Until the channel has found the new incarnation.
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return await read(channel.generate(request(), None, can_relay=True))

    async with asyncio.timeout(20):
        assert await whole() == text_of(8)


async def test_a_worker_that_is_not_there_is_unreachable(tmp_path):
    """The request is not the cause."""
    channel = open_channel(f"unix:{tmp_path}/nothing")
    error = await error_of(channel.generate(request(), None, can_relay=True))
    assert classify_failure(error, "w0").kind is FailureKind.UNREACHABLE
    await channel.close()


async def test_a_cancel_reaches_the_worker(worker, channel):
    """Its stream there ends, and the others continue."""
    worker.script.pause_after_tokens = 4
    calls = [channel.generate(request(), None, can_relay=True) for _ in range(2)]
    await eventually(lambda: worker.running == 2)
    assert calls[0].cancel()
    await eventually(lambda: worker.running == 1)
    worker.go_on.set()
    assert await read(calls[1]) == text_of(8)


class SilentCall:
    """A stub whose only call is silent until it is cancelled."""

    def __init__(self) -> None:
        self._is_over = asyncio.Event()

    def Relay(self, orders):
        """Begins the call."""
        return self

    def cancel(self) -> bool:
        """Ends it."""
        self._is_over.set()
        return True

    def __aiter__(self):
        """Reads itself."""
        return self

    async def __anext__(self):
        """Waits for the end."""
        await self._is_over.wait()
        raise StopAsyncIteration


async def test_a_first_token_is_handed_over_before_the_others():
    """Streams that have output can wait a moment; a new request cannot."""
    connection = RelayConnection(SilentCall())
    order = []

    async def note(name, call) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for kind, _ in call:
                order.append((name, kind))

    def event_of(stream: int, **event: object) -> worker_pb2.RelayEvent:
        return worker_pb2.RelayEvent(stream=stream, response=generation_pb2.GenerateResponse(**event))

    output, end = {"delta": generation_pb2.Delta(text="a")}, {"finished": generation_pb2.Finished()}
    reading = [asyncio.create_task(note(name, connection.begin(request(), None))) for name in ("old", "new")]
    connection._distribute([event_of(1, **output)])
    await eventually(lambda: order == [("old", "delta")])
    connection._distribute([event_of(1, **output), event_of(2, **output), event_of(1, **end), event_of(2, **end)])
    await asyncio.gather(*reading)
    assert order[1][0] == "new"
    assert sorted(order[1:]) == sorted([("old", "delta"), ("old", "finished"), ("new", "delta"), ("new", "finished")])
    await connection.close()


async def test_a_large_request_has_a_call_of_its_own(worker, channel):
    """Others do not wait behind an image."""
    large = channel.generate(request("x" * MAX_RELAYED_BYTES), None, can_relay=True)
    assert isinstance(large, SeparateGeneration)
    assert await read(large) == text_of(8)


async def test_a_worker_that_does_not_relay_is_called_as_ever(worker, channel):
    """One generation, one call."""
    call = channel.generate(request(), None, can_relay=False)
    assert isinstance(call, SeparateGeneration)
    assert await read(call) == text_of(8)


async def test_closing_the_channel_ends_what_runs(worker, channel):
    """No reader waits for ever."""
    worker.script.pause_after_tokens = 4
    call = channel.generate(request(), None, can_relay=True)
    reading = asyncio.create_task(error_of(call))
    await eventually(lambda: worker.running == 1)
    await channel.close()
    error = await reading
    assert error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


class BrokenCall:
    """A Relay call that ends without an event when a test says so; its messages are read by the test."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.messages = None

    def Relay(self, messages):
        self.messages = messages
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        await self.over.wait()
        raise StopAsyncIteration

    def cancel(self) -> bool:
        return True


async def test_the_messages_of_a_call_end_with_it_while_one_is_being_written():
    """Otherwise the task that writes them would wait for the next one for ever."""
    call = BrokenCall()
    connection = RelayConnection(call)
    connection.begin(request(), None)
    assert (await anext(call.messages)).HasField("start")
    call.over.set()
    await eventually(lambda: connection.is_over)
    async with asyncio.timeout(10):
        assert [message async for message in call.messages] == []
    await connection.close()
