"""The simulated engine behind the Engine protocol, in virtual time."""

import asyncio
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.conftest import FLAT_OUT, VirtualClock
from vllama_protos.v1 import embedding_pb2, worker_pb2
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.config import WorkerConfig
from vllama_server.errors import (
    CapabilityMissing,
    ConfigError,
    ContextTooLong,
    EngineDead,
    EngineFault,
    InvalidRequest,
)
from vllama_server.fake_engine.engine import FakeEngine
from vllama_server.fake_engine.simulation_profile import Faults, SimulationProfile


@pytest.fixture
async def engine(clock):
    """A started engine of the default profile."""
    engine = FakeEngine(clock=clock)
    await engine.start(lambda *_: None)
    yield engine
    await engine.stop()


def request(prompt="hello", *, fields=None, **sampling):
    """Returns a request for a text, a chat or token ids."""
    kind = {str: "prompt", pb.Chat: "chat", pb.TokenIds: "token_ids"}[type(prompt)]
    return pb.GenerateRequest(request_id="r", sampling=pb.Sampling(**sampling), **{kind: prompt}, **(fields or {}))


def chat(*turns, **fields):
    """Returns a chat of turns, each given as role and text."""
    return pb.Chat(messages=[pb.Message(role=role, content=text) for role, text in turns], **fields)


def embedding(*texts, **fields):
    """Returns a request to embed texts."""
    return embedding_pb2.EmbedRequest(inputs=texts, **fields)


def embedded(reply):
    """Returns the vectors as lists of numbers."""
    return [list(vector.values) for vector in reply.vectors]


async def events_of(engine, one):
    """Collects every event of a generation."""
    return [event async for event in engine.generate(one)]


def expected(prompt, start, end):
    """What the engine must say, from the design alone."""
    digest = sha256(prompt.encode()).hexdigest()[:4]
    return "".join(f" {digest}.{index}" for index in range(start, end))


def text_of(events):
    """The text of all deltas."""
    return "".join(event.delta.text for event in events)


def ids_of(events):
    """The token ids of all deltas."""
    return [id_ for event in events for id_ in event.delta.token_ids]


async def test_the_tokens_are_exactly_those_of_the_prompt(engine):
    """Output token i is " {hash}.{i}", started first and finished last."""
    wanted = request("hello", max_tokens=20, fields={"return_prompt_token_ids": True})
    first, *deltas, last = await events_of(engine, wanted)
    assert first.WhichOneof("event") == "started"
    assert len(first.started.prompt_token_ids) == first.started.prompt_tokens == 2
    end = last.finished
    assert (end.reason, end.usage.prompt_tokens, end.usage.completion_tokens) == (pb.FINISH_REASON_LENGTH, 2, 20)
    assert text_of(deltas) == expected("hello", 0, 20)


async def test_the_default_is_128_tokens(engine):
    """Without max_tokens an answer has 128 tokens."""
    assert (await events_of(engine, request()))[-1].finished.usage.completion_tokens == 128


async def test_negative_max_tokens_fill_the_context(clock):
    """-1 goes on until the context ends."""
    engine = FakeEngine(context_tokens=50, clock=clock)
    await engine.start(lambda *_: None)
    events = await events_of(engine, request("hello", max_tokens=-1))
    await engine.stop()
    assert events[-1].finished.usage.completion_tokens == 48


async def test_zero_max_tokens_evaluate_the_prompt_only(engine):
    """There is no delta, and the end is LENGTH."""
    first, last = await events_of(engine, request(max_tokens=0))
    assert first.HasField("started")
    assert (last.finished.usage.completion_tokens, last.finished.reason) == (0, pb.FINISH_REASON_LENGTH)


@settings(max_examples=25)
@given(st.text(min_size=1, max_size=40), st.integers(0, 30), st.lists(st.sampled_from([".7", "3 ", "zz"]), max_size=2))
async def test_a_resumed_generation_continues_exactly(prompt, cut, stop):
    """What came before the cut and what comes after it are together the undisturbed output."""
    engine = FakeEngine(clock=VirtualClock())
    await engine.start(lambda *_: None)
    whole = await events_of(engine, request(prompt, max_tokens=30, stop=tuple(stop)))
    ids = ids_of(whole)[:cut]
    rest = await events_of(engine, request(prompt, fields={"resume_token_ids": ids}, max_tokens=30, stop=tuple(stop)))
    await engine.stop()
    assert ids + ids_of(rest) == ids_of(whole)
    assert text_of(whole).endswith(text_of(rest))
    assert rest[-1].finished.usage.completion_tokens == whole[-1].finished.usage.completion_tokens
    assert rest[-1].finished.reason == whole[-1].finished.reason
    before = text_of(whole).removesuffix(text_of(rest))
    assert (await engine.detokenize(ids)).startswith(before)
    if not whole[-1].finished.matched_stop:
        assert await engine.detokenize(ids) == before


async def test_resuming_at_the_end_completes_at_once(engine):
    """A generation of which everything was delivered has nothing left to say."""
    ids = ids_of(await events_of(engine, request(max_tokens=4)))
    first, last = await events_of(engine, request(fields={"resume_token_ids": ids}, max_tokens=4))
    assert first.HasField("started")
    assert last.finished.usage.completion_tokens == 4


async def test_resuming_beyond_the_end_completes_at_once(engine, clock):
    """Far more tokens than the request allows cost no step: there is nothing left to say."""
    ids = [7] * 100_000
    began = clock.now
    first, last = await events_of(engine, request(fields={"resume_token_ids": ids}, max_tokens=5))
    assert first.HasField("started")
    assert (last.finished.reason, last.finished.usage.completion_tokens) == (pb.FINISH_REASON_LENGTH, 100_000)
    assert clock.now == began


async def test_a_stop_text_ends_the_generation(engine):
    """The text before it is given, the text itself is named."""
    events = await events_of(engine, request("hello", stop=(".3",)))
    assert text_of(events) == expected("hello", 0, 4)[:-2]
    end = events[-1].finished
    assert (end.reason, end.matched_stop) == (pb.FINISH_REASON_STOP, ".3")


async def test_a_chat_is_the_concatenation_of_its_turns(engine):
    """The simulated template is role, colon, content, line feed."""
    turns = chat(("system", "Be brief."), ("user", "Hi"))
    rendered = "system: Be brief.\nuser: Hi\n"
    assert text_of(await events_of(engine, request(turns, max_tokens=3))) == expected(rendered, 0, 3)
    assert (await engine.tokenize(pb.TokenizeRequest(chat=turns))).text == rendered


async def test_token_ids_are_the_same_prompt_as_their_text(engine):
    """A prompt may come tokenized."""
    ids = (await engine.tokenize(pb.TokenizeRequest(prompt="hello"))).token_ids
    assert text_of(await events_of(engine, request(pb.TokenIds(ids=ids), max_tokens=2))) == expected("hello", 0, 2)


async def test_timings_follow_the_profile(clock):
    """Queueing, prefill and decode are the step model's own times."""
    engine = FakeEngine(SimulationProfile(max_streams=1), clock=clock)
    await engine.start(lambda *_: None)
    first, second = await asyncio.gather(
        events_of(engine, request("a" * 400, max_tokens=11)), events_of(engine, request("b" * 400, max_tokens=1))
    )
    await engine.stop()
    timings = first[-1].finished.timings
    assert timings.prompt.ToNanoseconds() / 1e9 == pytest.approx(0.010 + 100 / 20_000)
    assert timings.decode.ToNanoseconds() / 1e9 == pytest.approx(10 * 0.0102)
    assert second[-1].finished.timings.queue.ToNanoseconds() / 1e9 == pytest.approx(0.015 + 0.102)


async def test_a_repeated_prompt_is_cached(engine):
    """The second time only the last block is computed, and the reply says so."""
    await events_of(engine, request("a" * 640, max_tokens=1))
    first, *_, last = await events_of(engine, request("a" * 640, max_tokens=1))
    assert (first.started.cached_prompt_tokens, last.finished.usage.cached_prompt_tokens) == (144, 144)


async def test_a_slow_reader_gets_larger_deltas(engine):
    """While it reads nothing the tokens gather; none is lost."""
    stream = engine.generate(request("hello", max_tokens=100))
    assert (await anext(stream)).HasField("started")
    async with asyncio.timeout(5):
        while engine.load().running:
            await asyncio.sleep(0)
    delta, last = [event async for event in stream]
    assert delta.delta.text == expected("hello", 0, 100)
    assert last.finished.usage.completion_tokens == 100


async def test_closing_a_generation_frees_its_place(engine):
    """An aborted request leaves nothing behind."""
    stream = engine.generate(request(max_tokens=1000))
    await anext(stream)
    assert engine.load().running == 1
    await stream.aclose()
    load = engine.load()
    assert (load.running, load.waiting, load.kv_cache_use) == (0, 0, 0.0)


async def test_closing_a_waiting_request_frees_its_place(clock):
    """An aborted request that never ran leaves nothing behind either."""
    engine = FakeEngine(SimulationProfile(max_streams=1), clock=clock)
    await engine.start(lambda *_: None)
    running = engine.generate(request(max_tokens=4000))
    await anext(running)
    waiting = asyncio.create_task(events_of(engine, request("second")))
    while not engine.load().waiting:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert engine.load().waiting == 0
    await running.aclose()
    await engine.stop()


async def test_an_engine_without_pace_serves_all_its_readers():
    """With steps that take no time 32 streams still all get their own tokens."""
    engine = FakeEngine(FLAT_OUT)
    await engine.start(lambda *_: None)
    prompts = [f"prompt {number}" for number in range(32)]
    answers = await asyncio.gather(*(events_of(engine, request(prompt, max_tokens=50)) for prompt in prompts))
    await engine.stop()
    assert [text_of(answer) for answer in answers] == [expected(prompt, 0, 50) for prompt in prompts]


async def test_one_stalled_reader_does_not_hold_up_the_others():
    """An engine without pace goes on although one reader has stopped."""
    engine = FakeEngine(FLAT_OUT)
    await engine.start(lambda *_: None)
    stalled = engine.generate(request("stalled", max_tokens=100))
    await anext(stalled)
    assert text_of(await events_of(engine, request("b", max_tokens=100))) == expected("b", 0, 100)
    await stalled.aclose()
    await engine.stop()


async def test_the_load_measures_speed(engine):
    """After work there are a step time, a prefill speed and an age."""
    assert engine.load().last_step_age_seconds is None
    await events_of(engine, request("a" * 4000, max_tokens=200))
    await events_of(engine, request("b" * 4000, max_tokens=200))
    load = engine.load()
    assert load.step_seconds == pytest.approx(0.0102)
    assert load.prefill_tokens_per_second == pytest.approx(20_000, rel=0.4)
    assert load.decode_tokens_per_second == pytest.approx(1 / 0.0102, rel=0.3)
    assert load.last_step_age_seconds is not None


async def test_the_decode_speed_decays_while_idle(engine, clock):
    """A report of an idle engine must not promise yesterday's load."""
    await events_of(engine, request(max_tokens=200))
    clock.now += 20
    assert engine.load().decode_tokens_per_second < 0.01


async def test_idle_time_is_no_time_without_a_step(engine, clock):
    """The first step after a pause is as old as its request, and an idle engine has no old step."""
    await events_of(engine, request(max_tokens=5))
    clock.now += 60
    assert engine.load().last_step_age_seconds == 0.0
    stream = engine.generate(request("a" * 4000, max_tokens=5))
    await anext(stream)
    load = engine.load()
    assert (load.running, load.last_step_age_seconds) == (1, pytest.approx(0.0, abs=1.0))
    await stream.aclose()


async def test_a_hung_engine_has_an_old_step(clock):
    """Its age grows from the last step while there is work, and from the first request after idle time."""
    engine = FakeEngine(faults=Faults(hang_after_tokens=5), clock=clock)
    await engine.start(lambda *_: None)
    await events_of(engine, request(max_tokens=5))
    clock.now += 60
    stream = asyncio.create_task(events_of(engine, request(max_tokens=5)))
    while not engine.load().waiting:
        await asyncio.sleep(0)
    clock.now += 30
    assert engine.load().last_step_age_seconds == pytest.approx(30.0)
    stream.cancel()
    await asyncio.wait({stream})
    await engine.stop()


async def test_a_prompt_beyond_the_context_is_refused_with_both_lengths(engine):
    """The message says how long the prompt is and how long it may be."""
    with pytest.raises(ContextTooLong, match=r"5000 tokens and the context 4096"):
        await events_of(engine, request("abcd" * 5000))


async def test_a_chat_drops_its_oldest_turns_when_it_may(engine):
    """System turns and the last turn stay, and the reply counts the others."""
    turns = chat(("system", "s"), *[("user", "x" * 4000)] * 6, ("user", "last"))
    may_drop = {"truncation": pb.TRUNCATION_DROP_OLDEST}
    first, *_ = await events_of(engine, request(turns, fields=may_drop, max_tokens=1))
    assert first.started.dropped_messages == 2
    with pytest.raises(ContextTooLong):
        await events_of(engine, request(turns, max_tokens=1))


@pytest.mark.parametrize(
    ("wanted", "capability"),
    [
        (request("a", fields={"suffix": "b"}), worker_pb2.CAPABILITY_INSERT),
        (
            request(pb.Chat(messages=[pb.Message(role="user", images=[pb.Image(data=b"png")])])),
            worker_pb2.CAPABILITY_VISION,
        ),
        (request(chat(("user", "x"), think=pb.THINK_LEVEL_HIGH)), worker_pb2.CAPABILITY_THINKING),
        (
            request(chat(("user", "x"), tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED))),
            worker_pb2.CAPABILITY_TOOLS,
        ),
    ],
)
async def test_what_a_simulation_cannot_do_is_named(engine, wanted, capability):
    """A missing capability is an error and not a silent omission."""
    with pytest.raises(CapabilityMissing) as error:
        await events_of(engine, wanted)
    assert error.value.capability == capability


async def test_an_output_format_is_refused(engine):
    """Its text cannot be constrained."""
    one = request("x", fields={"output_format": pb.OutputFormat(json_object=True)})
    with pytest.raises(InvalidRequest, match="output_format"):
        await events_of(engine, one)


async def test_an_output_format_is_served_unconstrained_if_the_profile_asks(clock):
    """For tests of what happens on the way to an engine that can."""
    engine = FakeEngine(SimulationProfile(accepts_formats=True), clock=clock)
    await engine.start(lambda *_: None)
    one = request("x", max_tokens=3, fields={"output_format": pb.OutputFormat(json_object=True)})
    assert text_of(await events_of(engine, one)) == expected("x", 0, 3)
    await engine.stop()


async def test_an_empty_prompt_is_refused(engine):
    """There is nothing to continue."""
    with pytest.raises(InvalidRequest, match="empty"):
        await events_of(engine, request(""))


async def test_logprobs_are_certain(engine):
    """Each token was the only one possible."""
    one = request("x", max_tokens=3, fields={"logprobs": True, "top_logprobs": 5})
    entries = [entry for event in await events_of(engine, one) for entry in event.delta.logprobs]
    assert [entry.token.logprob for entry in entries] == [0.0] * 3
    assert all(list(entry.top) == [entry.token] for entry in entries)


async def test_logprobs_come_only_when_asked_for(engine):
    """With none beside the token itself unless a number of rivals is given."""
    plain = await events_of(engine, request("x", max_tokens=3))
    assert not any(event.delta.logprobs for event in plain)
    asked = await events_of(engine, request("x", max_tokens=3, fields={"logprobs": True}))
    entries = [entry for event in asked for entry in event.delta.logprobs]
    assert [len(entry.top) for entry in entries] == [0] * 3


async def test_a_chat_continues_its_context(engine):
    """The tokens of earlier turns come before the rendered chat."""
    context = await engine.tokenize(pb.TokenizeRequest(prompt="before: "))
    fields = {"context_token_ids": context.token_ids, "return_prompt_token_ids": True}
    events = await events_of(engine, request(chat(("user", "hi")), max_tokens=2, fields=fields))
    assert await engine.detokenize(events[0].started.prompt_token_ids) == "before: user: hi\n"
    assert text_of(events) == expected("before: user: hi\n", 0, 2)


async def test_embeddings_are_unit_vectors_of_their_text(engine):
    """Equal texts have equal vectors, others have others, and all have length 1."""
    one, same, other = embedded(await engine.embed(embedding("a", "a", "b")))
    assert one == same != other
    assert sum(value * value for value in one) == pytest.approx(1.0)
    assert len(one) == engine.describe().model_info.embedding_length


async def test_embeddings_can_be_cut(engine):
    """Fewer dimensions are the first numbers, scaled again; more than there are is an error."""
    (short,) = embedded(await engine.embed(embedding("a", dimensions=10)))
    (whole,) = embedded(await engine.embed(embedding("a", normalize=False)))
    assert len(short) == 10
    scale = whole[0] / short[0]
    assert [value * scale for value in short] == pytest.approx(whole[:10])
    with pytest.raises(InvalidRequest, match="dimensions"):
        await engine.embed(embedding("a", dimensions=10_000))


async def test_a_long_text_is_embedded_only_when_it_may_be_cut(engine):
    """Without truncation the error states both lengths."""
    with pytest.raises(ContextTooLong, match="5000"):
        await engine.embed(embedding("abcd" * 5000))
    (cut,) = (await engine.embed(embedding("abcd" * 5000, truncate=True))).vectors
    assert cut.prompt_tokens == 4096


async def test_many_embeddings_leave_the_loop_to_others(engine):
    """A call with many texts yields between them, and stops when it is cancelled."""
    call = asyncio.create_task(engine.embed(embedding(*["a"] * 20_000)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not call.done()
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()


async def test_embeddings_beyond_one_message_are_refused_before_any_is_made(engine):
    """A reply that no message can carry costs nothing; the error gives the number that fits."""
    with pytest.raises(InvalidRequest, match="inputs") as error:
        await engine.embed(embedding(*["a"] * 1_000_000))
    assert "43240" in str(error.value)


async def test_a_slow_start_reports_progress(clock):
    """start_seconds pass in the load phase, and each stage is reported."""
    reported = []
    engine = FakeEngine(faults=Faults(start_seconds=10), clock=clock)
    await engine.start(lambda *step: reported.append(step))
    await engine.stop()
    assert clock.now == pytest.approx(1010)
    assert reported[0][0] == worker_pb2.START_PHASE_RESOLVE
    assert reported[-1][0] == worker_pb2.START_PHASE_WARM_UP
    shares = [share for phase, share in reported if phase == worker_pb2.START_PHASE_LOAD]
    assert shares == sorted(shares)
    assert len(shares) > 5


async def test_the_error_rate_fails_requests_before_their_first_token(clock):
    """A rate of 1 fails each of them, with an engine fault."""
    engine = FakeEngine(faults=Faults(error_rate=0.5), clock=clock, random=Random(1))
    await engine.start(lambda *_: None)
    failures = 0
    for _ in range(40):
        try:
            await events_of(engine, request(max_tokens=1))
        except EngineFault:
            failures += 1
    await engine.stop()
    assert 8 <= failures <= 32


async def test_poison_kills_the_process(clock):
    """A prompt that contains the text is the end."""
    deaths = []
    engine = FakeEngine(faults=Faults(poison="cyanide"), clock=clock, die=lambda: deaths.append(1))
    await engine.start(lambda *_: None)
    await events_of(engine, request("tea", max_tokens=1))
    assert not deaths
    await events_of(engine, request("tea with cyanide", max_tokens=1))
    await engine.stop()
    assert deaths == [1]


async def test_the_process_crashes_after_so_many_tokens(clock):
    """The count runs over all streams."""
    deaths = []
    engine = FakeEngine(faults=Faults(crash_after_tokens=10), clock=clock, die=lambda: deaths.append(1))
    await engine.start(lambda *_: None)
    await events_of(engine, request(max_tokens=9))
    assert not deaths
    await events_of(engine, request(max_tokens=1))
    await asyncio.sleep(0)
    await engine.stop()
    assert deaths


async def test_the_engine_hangs_after_so_many_tokens(clock):
    """It has work, answers nothing, and makes no step."""
    engine = FakeEngine(faults=Faults(hang_after_tokens=5), clock=clock)
    await engine.start(lambda *_: None)
    stream = engine.generate(request(max_tokens=50))
    seen = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            async for event in stream:
                seen += len(ids_of([event]))
    await stream.aclose()
    await engine.stop()
    assert seen == 5


async def test_stopping_ends_what_runs(engine):
    """A generation that is still running learns that the engine is gone."""
    stream = engine.generate(request(max_tokens=4000))
    await anext(stream)
    running = asyncio.create_task(anext(aiter(stream)))
    await asyncio.sleep(0)
    await engine.stop()
    with pytest.raises(EngineDead):
        while True:
            await running
            running = asyncio.create_task(anext(aiter(stream)))


async def test_flags_make_the_engine():
    """--engine-arg, --max-streams and --max-model-len reach the simulation."""
    config = WorkerConfig("m", max_streams=3, max_model_len=100, engine_args={"kv_cache_tokens": "1600"})
    description = FakeEngine.from_config(config).describe()
    assert (description.max_streams, description.context_length, description.kv_cache_tokens) == (3, 100, 1600)
    assert description.simulated


@pytest.mark.parametrize(
    "arguments",
    [{"sped": "1"}, {"speed": "0"}, {"speed": "fast"}, {"error_rate": "2"}, {"max_streams": "0"}, {"poison": ""},
     {"kv_cache_tokens": "1"}, {"step_seconds": "-1"}],
)  # fmt: skip
def test_a_wrong_engine_argument_is_refused_by_name(arguments):
    """The message names the key."""
    with pytest.raises(ConfigError) as error:
        FakeEngine.from_config(WorkerConfig("m", engine_args=arguments))
    assert next(iter(arguments)) in str(error.value)
