"""vllama.v1.Generation over a real channel."""

import asyncio
from hashlib import sha256

import grpc
import pytest

from tests.server.engines import accepted, completed, started
from tests.server.statuses import all_of, details_of, error_of
from vllama_protos.v1 import embedding_pb2, worker_pb2
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine.events import delta
from vllama_server.errors import CapabilityMissing, ContextTooLong, EngineBusy, EngineFault
from vllama_server.fake_engine.engine import FakeEngine
from vllama_server.fake_engine.simulation_profile import SimulationProfile

FEW = pb.Sampling(max_tokens=2)


def request(prompt="hello", **fields):
    """Makes a request for a few tokens."""
    return pb.GenerateRequest(prompt=prompt, sampling=pb.Sampling(max_tokens=fields.pop("max_tokens", 5)), **fields)


async def test_a_generation_is_started_then_deltas_then_finished(start_worker):
    """The order of events and the exact text of the simulated engine."""
    worker = await start_worker()
    first, *deltas, last = await all_of(worker.generation.Generate(request()))
    digest = sha256(b"hello").hexdigest()[:4]
    assert first.started.worker == "worker-0"
    assert first.started.boot_id
    assert first.started.prompt_tokens == 2
    assert not first.started.prompt_token_ids
    assert "".join(event.delta.text for event in deltas) == "".join(f" {digest}.{i}" for i in range(5))
    assert sum(len(event.delta.token_ids) for event in deltas) == 5
    assert last.finished.reason == pb.FINISH_REASON_LENGTH
    assert (last.finished.usage.prompt_tokens, last.finished.usage.completion_tokens) == (2, 5)


async def test_the_prompt_ids_are_sent_on_request(start_worker):
    """return_prompt_token_ids puts them into `started`."""
    worker = await start_worker()
    first, *_ = await all_of(worker.generation.Generate(request(return_prompt_token_ids=True)))
    back = await worker.generation.Detokenize(pb.DetokenizeRequest(token_ids=first.started.prompt_token_ids))
    assert back.text == "hello"


async def test_a_stream_resumes_after_what_was_delivered(start_worker):
    """Before the cut and after it make the undisturbed text."""
    worker = await start_worker()
    whole = await all_of(worker.generation.Generate(request(max_tokens=10)))
    ids = [id_ for event in whole for id_ in event.delta.token_ids]
    rest = await all_of(worker.generation.Generate(request(max_tokens=10, resume_token_ids=ids[:4])))
    assert [id_ for event in rest for id_ in event.delta.token_ids] == ids[4:]
    assert rest[-1].finished.usage.completion_tokens == 10


async def test_every_part_of_an_event_arrives(start_worker):
    """Thinking, tool calls, log probabilities, timings: the client reads the engine's values."""
    entry = pb.TokenLogprob(id=7, text="x", bytes=b"x", logprob=-0.5)
    call = pb.ToolCall(id="c1", name="f", arguments_json='{"x":1}')
    logprobs = [pb.TokenLogprobs(token=entry, top=[entry])]
    engine = started(
        accepted(3, cached_prompt_tokens=2, dropped_messages=1),
        delta("a", [7], thinking="b", tool_calls=[call], logprobs=logprobs),
        completed(
            reason=pb.FINISH_REASON_TOOL_CALLS,
            cached_prompt_tokens=2,
            reasoning_tokens=1,
            matched_stop="###",
            queue_seconds=0.25,
            prefill_seconds=0.5,
            decode_seconds=1.5,
        ),
    )
    worker = await start_worker(engine)
    first, middle, last = await all_of(worker.generation.Generate(request()))
    assert (first.started.cached_prompt_tokens, first.started.dropped_messages) == (2, 1)
    assert (middle.delta.text, middle.delta.thinking, list(middle.delta.token_ids)) == ("a", "b", [7])
    assert list(middle.delta.tool_calls) == [call]
    assert list(middle.delta.logprobs) == logprobs
    end = last.finished
    assert (end.reason, end.matched_stop, end.usage.reasoning_tokens) == (pb.FINISH_REASON_TOOL_CALLS, "###", 1)
    assert (end.timings.queue.nanos, end.timings.prompt.nanos) == (250_000_000, 500_000_000)
    assert (end.timings.decode.seconds, end.timings.decode.nanos) == (1, 500_000_000)
    assert end.timings.HasField("load")


@pytest.mark.parametrize("name", ["", "tiny", "TINY"])
async def test_any_served_name_and_none_reach_the_model(start_worker, name):
    """Names are compared without case, and a worker accepts an empty one."""
    worker = await start_worker()
    assert await all_of(worker.generation.Generate(request(model=name)))


async def test_another_model_is_not_found(start_worker):
    """The error lists what is served."""
    worker = await start_worker(served_names=("tiny:latest", "small"))
    error = await error_of(all_of(worker.generation.Generate(request(model="huge"))))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "tiny:latest, small" in error.details()
    assert details_of(error)[0].reason == "MODEL_NOT_FOUND"


async def test_a_wrong_field_is_named(start_worker):
    """INVALID_ARGUMENT carries the field in its ErrorInfo."""
    worker = await start_worker()
    error = await error_of(all_of(worker.generation.Generate(request(top_logprobs=3))))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    info, retry = details_of(error)
    assert (info.domain, info.reason, info.metadata["field"]) == ("vllama", "INVALID_REQUEST", "top_logprobs")
    assert retry is None


@pytest.mark.parametrize(
    ("error", "code", "reason", "metadata"),
    [
        (ContextTooLong("too long", "prompt"), "INVALID_ARGUMENT", "CONTEXT_TOO_LONG", {"field": "prompt"}),
        (CapabilityMissing("blind", worker_pb2.CAPABILITY_VISION), "FAILED_PRECONDITION", "CAPABILITY_MISSING",
         {"capability": "vision"}),
        (EngineFault("broke"), "INTERNAL", "ENGINE_FAULT", {}),
        (RuntimeError("secret"), "INTERNAL", "ENGINE_FAULT", {}),
    ],
)  # fmt: skip
async def test_errors_of_the_engine_become_statuses(start_worker, error, code, reason, metadata):
    """Each kind has its code and its stable reason; the text of a foreign exception is not shown."""
    worker = await start_worker(started(error))
    caught = await error_of(all_of(worker.generation.Generate(request())))
    assert caught.code().name == code
    info, _ = details_of(caught)
    assert (info.reason, dict(info.metadata)) == (reason, metadata)
    assert "secret" not in caught.details()


async def test_a_busy_engine_has_a_retry_time(start_worker):
    """RESOURCE_EXHAUSTED carries a RetryInfo."""
    worker = await start_worker(started(EngineBusy("full")))
    error = await error_of(all_of(worker.generation.Generate(request())))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(error)[1].retry_delay.seconds == 1


async def test_an_error_after_the_first_delta_is_a_status(start_worker):
    """What was delivered stays delivered, and the end is no `finished`."""
    worker = await start_worker(started(accepted(), delta("a", [1]), EngineFault("broke")))
    seen = []
    call = worker.generation.Generate(request())
    with pytest.raises(grpc.aio.AioRpcError):
        seen += [event.WhichOneof("event") async for event in call]
    assert await call.code() == grpc.StatusCode.INTERNAL


async def test_an_engine_that_ends_without_completing_is_a_fault(start_worker):
    """A client never takes a broken stream for a whole one."""
    worker = await start_worker(started(accepted(), delta("a", [1])))
    error = await error_of(all_of(worker.generation.Generate(request())))
    assert error.code() == grpc.StatusCode.INTERNAL


async def test_a_cancelled_call_is_aborted_in_the_engine(start_worker):
    """Cancelling frees the place at once, whatever the stream was doing."""
    worker = await start_worker(FakeEngine(SimulationProfile(step_seconds=0.001)))
    call = worker.generation.Generate(request(max_tokens=4000))
    await call.read()
    assert worker.engine.load().running == 1
    call.cancel()
    async with asyncio.timeout(1):
        while worker.engine.load().running:
            await asyncio.sleep(0.01)


async def test_a_deadline_ends_the_generation_in_the_engine(start_worker):
    """The caller gets DEADLINE_EXCEEDED, and the engine is free again."""
    worker = await start_worker(FakeEngine(SimulationProfile(step_seconds=0.01)))
    error = await error_of(all_of(worker.generation.Generate(request(max_tokens=4000), timeout=0.2)))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(1):
        while worker.engine.load().running:
            await asyncio.sleep(0.01)


async def test_a_deadline_is_counted_as_one(start_worker):
    """The metric tells calls that ran out of time from those that their caller gave up."""
    worker = await start_worker(FakeEngine(SimulationProfile(step_seconds=0.01)))
    await error_of(all_of(worker.generation.Generate(request(max_tokens=4000), timeout=0.2)))
    given_up = worker.generation.Generate(request(max_tokens=4000), timeout=60)
    await given_up.read()
    given_up.cancel()
    assert await worker.generations_ended("DEADLINE_EXCEEDED") == 1
    assert await worker.generations_ended("CANCELLED") == 1


async def test_requests_beyond_the_queue_are_refused(start_worker):
    """One stream runs, one waits, the third is refused."""
    worker = await start_worker(FakeEngine(SimulationProfile(max_streams=1)), max_queue=1)
    calls = [worker.generation.Generate(request(f"p{number}", max_tokens=500)) for number in range(2)]
    await calls[0].read()
    async with asyncio.timeout(5):
        while worker.engine.load().waiting < 1:
            await asyncio.sleep(0.01)
    error = await error_of(all_of(worker.generation.Generate(request())))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(error)[0].reason == "ENGINE_BUSY"
    for call in calls:
        call.cancel()


async def test_two_live_requests_of_one_id_stay_apart(start_worker):
    """They have different ids in the engine, so aborting one leaves the other."""
    engine = started()
    engine.may_end.clear()
    worker = await start_worker(engine)
    calls = [asyncio.create_task(all_of(worker.generation.Generate(request(request_id="same")))) for _ in range(2)]
    async with asyncio.timeout(5):
        while len(engine.requests) < 2:
            await asyncio.sleep(0.01)
    assert len({one.request_id for one in engine.requests}) == 2
    engine.may_end.set()
    for events in await asyncio.gather(*calls):
        assert events[-1].WhichOneof("event") == "finished"


async def test_the_request_id_may_come_as_metadata(start_worker):
    """x-request-id counts when the field is empty."""
    engine = started()
    worker = await start_worker(engine)
    await all_of(worker.generation.Generate(request(), metadata=(("x-request-id", "from-metadata"),)))
    await all_of(worker.generation.Generate(request(request_id="own"), metadata=(("x-request-id", "other"),)))
    await all_of(worker.generation.Generate(request()))
    assert [one.request_id for one in engine.requests][:2] == ["from-metadata", "own"]
    assert len(engine.requests[2].request_id) == 32


@pytest.mark.parametrize("request_id", ["x" * 129, "a\nb", "ä"])
async def test_a_request_id_that_would_spoil_the_log_is_refused(start_worker, request_id):
    """It is 128 printable ASCII characters at most."""
    worker = await start_worker()
    error = await error_of(all_of(worker.generation.Generate(request(request_id=request_id))))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(error)[0].metadata["field"] == "request_id"


async def test_tokens_are_counted_even_when_the_worker_is_full(start_worker):
    """Tokenizing takes no place from a stream and needs none."""
    engine = FakeEngine(SimulationProfile(max_streams=1))
    worker = await start_worker(engine, max_queue=0)
    call = worker.generation.Generate(request(max_tokens=4000))
    await call.read()
    assert (await worker.generation.Tokenize(pb.TokenizeRequest(prompt="hello"))).token_ids
    assert (await error_of(all_of(worker.generation.Generate(request())))).code().name == "RESOURCE_EXHAUSTED"
    call.cancel()


async def test_a_text_is_tokenized_and_back(start_worker):
    """Tokenize and Detokenize are each other's inverse."""
    worker = await start_worker()
    tokenized = await worker.generation.Tokenize(pb.TokenizeRequest(prompt="hello there"))
    assert tokenized.text == "hello there"
    back = await worker.generation.Detokenize(pb.DetokenizeRequest(token_ids=tokenized.token_ids))
    assert back.text == "hello there"


async def test_a_chat_is_rendered_before_it_is_tokenized(start_worker):
    """The reply has the text that was tokenized."""
    worker = await start_worker()
    chat = pb.Chat(messages=[pb.Message(role="user", content="Hi")])
    assert (await worker.generation.Tokenize(pb.TokenizeRequest(chat=chat))).text == "user: Hi\n"


async def test_tokenize_without_input_is_refused(start_worker):
    """One of the two must be set."""
    worker = await start_worker()
    error = await error_of(worker.generation.Tokenize(pb.TokenizeRequest()))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_texts_are_embedded_in_order(start_worker):
    """One vector for each input, with its tokens."""
    worker = await start_worker()
    reply = await worker.embedding.Embed(embedding_pb2.EmbedRequest(inputs=["a", "bbbbb", "a"]))
    assert [vector.prompt_tokens for vector in reply.vectors] == [1, 2, 1]
    assert reply.vectors[0].values == reply.vectors[2].values != reply.vectors[1].values


async def test_embedding_nothing_is_refused(start_worker):
    """The empty field is named."""
    worker = await start_worker()
    error = await error_of(worker.embedding.Embed(embedding_pb2.EmbedRequest()))
    assert details_of(error)[0].metadata["field"] == "inputs"


async def test_calls_are_counted_and_measured(start_worker):
    """Metrics show calls by method and code, tokens, and the time to the first token."""
    worker = await start_worker()
    await all_of(worker.generation.Generate(request()))
    await error_of(all_of(worker.generation.Generate(request(model="huge"))))
    value = worker.registry.get_sample_value
    assert value("vllama_worker_requests_total", {"method": "Generate", "code": "OK"}) == 1
    assert value("vllama_worker_requests_total", {"method": "Generate", "code": "NOT_FOUND"}) == 1
    assert value("vllama_worker_prompt_tokens_total") == 2
    assert value("vllama_worker_completion_tokens_total") == 5
    assert value("vllama_worker_time_to_first_token_seconds_count") == 1
    assert value("vllama_worker_requests_in_flight") == 0


async def test_no_prompt_reaches_the_log(start_worker, caplog):
    """Lines carry the request's id and never its text."""
    caplog.set_level("DEBUG")
    worker = await start_worker()
    await all_of(worker.generation.Generate(request("classified", request_id="r-1")))
    error = pb.GenerateRequest(prompt="classified", suffix="classified", request_id="r-2")
    await error_of(all_of(worker.generation.Generate(error)))
    assert "r-1" in caplog.text
    assert "r-2" in caplog.text
    assert "classified" not in caplog.text


async def test_the_engine_gets_what_was_asked(start_worker):
    """The request reaches the engine as it came, an option of zero included; only the id may be made here."""
    engine = started()
    worker = await start_worker(engine)
    chat = pb.Chat(
        messages=[
            pb.Message(role="user", content="Look", images=[pb.Image(data=b"png")]),
            pb.Message(role="assistant", thinking="hm", tool_calls=[pb.ToolCall(id="c", name="f")]),
            pb.Message(role="tool", content="42", tool_name="f", tool_call_id="c"),
        ],
        tools=[pb.Tool(name="f", description="d", parameters_json='{"type":"object"}')],
        tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="f"),
        think=pb.THINK_LEVEL_HIGH,
    )
    chat.template_switches.update({"n": 3, "x": 0.5, "on": True, "none": None, "list": ["a", {"b": 1}]})
    sent = pb.GenerateRequest(
        chat=chat,
        context_token_ids=[7, 8],
        sampling=pb.Sampling(max_tokens=5, seed=0, top_k=0, temperature=0.0),
        resume_token_ids=[9],
        priority=-3,
        max_context_tokens=77,
        logprobs=True,
        truncation=pb.TRUNCATION_DROP_OLDEST,
    )
    await all_of(worker.generation.Generate(sent))
    (one,) = engine.requests
    assert one.request_id
    sent.request_id = one.request_id
    assert one == sent


@pytest.mark.parametrize("method", ["Generate", "Tokenize"])
async def test_a_template_of_a_request_needs_the_operators_trust(start_worker, method):
    """The refusal names the field and the flag; a template of the store needs none."""

    async def send(worker, chat):
        if method == "Tokenize":
            return await worker.generation.Tokenize(pb.TokenizeRequest(chat=chat))
        return await all_of(worker.generation.Generate(pb.GenerateRequest(chat=chat, sampling=FEW)))

    chat = pb.Chat(messages=[pb.Message(role="user", content="hi")], template="{{ messages }}")
    worker = await start_worker()
    error = await error_of(send(worker, chat))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "--trust-client-templates" in error.details()
    assert details_of(error)[0].metadata["field"] == "chat.template"
    stored = pb.Chat()
    stored.CopyFrom(chat)
    stored.template_is_stored = True
    assert await send(worker, stored)
    assert await send(await start_worker(trust_client_templates=True), chat)


async def test_a_long_client_text_in_an_error_leaves_its_status_whole(start_worker):
    """The code, the reason and the beginning of the sentence arrive."""
    worker = await start_worker()
    error = await error_of(all_of(worker.generation.Generate(request(model="y" * 1_000))))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    chat = pb.Chat(messages=[pb.Message(role="user", content="x")], tools=[pb.Tool(name="f")])
    chat.tool_choice.mode, chat.tool_choice.name = pb.TOOL_CHOICE_MODE_NAMED, "\u6f22" * 9_000
    error = await error_of(all_of(worker.generation.Generate(pb.GenerateRequest(chat=chat))))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(error)[0].reason == "INVALID_REQUEST"
    assert error.details().startswith("chat.tool_choice.name is ")
