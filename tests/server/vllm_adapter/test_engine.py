"""The adapter on real vLLM: the Engine protocol."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.vllm_adapter.driving import GREEDY, chat_of, collect, greedy, ids_of, request_for, run
from vllama_protos.v1 import embedding_pb2, worker_pb2
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.errors import CapabilityMissing, ContextTooLong, InvalidRequest

if TYPE_CHECKING:
    from vllama_server.vllm_adapter.engine import VllmEngine

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

CAPITAL = chat_of(("user", "What is the capital of France?"))
STORY = "Once upon a time"


async def test_chat_answers_and_ends_its_turn(engine: VllmEngine) -> None:
    """A greedy chat gives the model's answer without its end token's text."""
    outcome = await run(engine, CAPITAL)
    assert outcome.text == "The capital of France is Paris."
    assert outcome.finished is not None
    assert outcome.finished.reason == pb.FINISH_REASON_STOP
    assert outcome.finished.usage.completion_tokens == len(outcome.token_ids) == 8


async def test_the_description_of_the_model(engine: VllmEngine) -> None:
    """Sizes come from the model's files, capabilities from its template and parsers."""
    description = engine.describe()
    assert description.capabilities == [worker_pb2.CAPABILITY_COMPLETION, worker_pb2.CAPABILITY_CHAT]
    assert description.context_length == 4096
    assert description.kv_cache_tokens > 4096
    assert description.model_info.architecture == "llama"
    assert description.model_info.parameter_count == 134_515_008
    assert description.model_info.trained_context_length == 8192
    assert "<|im_start|>" in description.model_info.chat_template
    assert not description.simulated


async def test_alone_and_in_a_batch_the_text_is_the_same(engine: VllmEngine) -> None:
    """With the deterministic setting."""
    prompts = [f"Once upon a time, in the year {1900 + number}," for number in range(8)]
    alone = [(await run(engine, prompt)).text for prompt in prompts]
    together = await asyncio.gather(*(run(engine, prompt) for prompt in prompts))
    assert [outcome.text for outcome in together] == alone


async def test_a_seed_repeats_its_text(engine: VllmEngine) -> None:
    """Two requests with one seed agree, and another seed differs."""
    first, again, other = [
        (await run(engine, STORY, pb.Sampling(temperature=1.0, seed=seed, max_tokens=24))).text for seed in (7, 7, 8)
    ]
    assert first == again != other


async def test_token_ids_are_used_as_they_are(engine: VllmEngine) -> None:
    """A prompt of tokens continues like the text that they stand for."""
    tokenized = await engine.tokenize(pb.TokenizeRequest(prompt=STORY))
    by_tokens = await run(engine, ids_of(*tokenized.token_ids))
    assert by_tokens.text == (await run(engine, STORY)).text
    assert by_tokens.started is not None
    assert list(by_tokens.started.prompt_token_ids) == list(tokenized.token_ids)


async def test_a_stop_text_ends_the_output_and_is_no_part_of_it(engine: VllmEngine) -> None:
    """Nothing of the stop text appears, however it falls on token borders."""
    whole = (await run(engine, STORY)).text
    stop = whole[20:31]
    outcome = await run(engine, STORY, greedy(stop=(stop, "\u2603")))
    assert outcome.text == whole[:20]
    assert outcome.finished is not None
    assert outcome.finished.reason == pb.FINISH_REASON_STOP
    assert outcome.finished.matched_stop == stop


async def test_a_stop_text_ends_the_work_of_a_blocked_reader(engine: VllmEngine) -> None:
    """The engine is idle although the output has not been read."""
    whole = (await run(engine, STORY)).text
    endless = pb.Sampling(temperature=0.0, ignore_eos=True, stop=(whole[20:31],))
    async with aclosing(engine.generate(request_for(STORY, endless))) as events:
        first = await anext(events)
        assert first.HasField("started")
        async with asyncio.timeout(30):
            while engine.load().running or engine.load().waiting:
                await asyncio.sleep(0.01)
        assert "".join([event.delta.text async for event in events]) == whole[:20]


async def test_max_tokens_zero_evaluates_the_prompt_only(engine: VllmEngine) -> None:
    """Ollama's num_predict 0: no output, no tokens counted."""
    outcome = await run(engine, STORY, pb.Sampling(max_tokens=0))
    assert outcome.deltas == []
    assert outcome.finished is not None
    assert (outcome.finished.reason, outcome.finished.usage.completion_tokens) == (pb.FINISH_REASON_LENGTH, 0)


async def test_max_context_tokens_bounds_prompt_and_output_together(engine: VllmEngine) -> None:
    """Without max_tokens the output ends where the request's own context does."""
    outcome = await run(engine, STORY, pb.Sampling(temperature=0.0, ignore_eos=True), max_context_tokens=20)
    assert outcome.started is not None
    assert outcome.finished is not None
    assert len(outcome.started.prompt_token_ids) + outcome.finished.usage.completion_tokens == 20
    assert outcome.finished.reason == pb.FINISH_REASON_LENGTH


async def test_timings_add_up(engine: VllmEngine) -> None:
    """Queueing, prefill and decode are within the time that the caller saw."""
    clock = asyncio.get_running_loop()
    began = clock.time()
    finished = (await run(engine, STORY)).finished
    assert finished is not None
    timings = finished.timings
    queue, prefill, decode = (part.ToNanoseconds() / 1e9 for part in (timings.queue, timings.prompt, timings.decode))
    assert 0 < prefill < queue + prefill + decode <= clock.time() - began


async def test_logprobs_come_with_every_token(engine: VllmEngine) -> None:
    """Each token has its own log probability and the alternatives asked for, best first."""
    outcome = await run(engine, STORY, logprobs=True, top_logprobs=3)
    entries = [entry for delta in outcome.deltas for entry in delta.logprobs]
    assert [entry.token.id for entry in entries] == outcome.token_ids
    assert all(len(entry.top) == 3 and entry.top[0] == entry.token for entry in entries)
    assert all(entry.token.logprob <= 0 for entry in entries)
    assert b"".join(entry.token.bytes for entry in entries).decode() == outcome.text


async def test_a_repeated_prompt_is_found_in_the_cache(engine: VllmEngine) -> None:
    """`cached_prompt_tokens` is the part of the prompt that was not computed."""
    prompt = "The quick brown fox jumps over the lazy dog. " * 40
    first = await run(engine, prompt, pb.Sampling(max_tokens=1))
    second = await run(engine, prompt, pb.Sampling(max_tokens=1))
    assert first.started is not None
    assert second.started is not None
    assert first.started.cached_prompt_tokens == 0
    assert second.started.cached_prompt_tokens >= 256


async def test_a_closed_generation_leaves_the_engine_at_once(engine: VllmEngine) -> None:
    """Closing aborts the request, and its blocks are free again."""
    endless = request_for(STORY, pb.Sampling(temperature=0.0, ignore_eos=True))
    async with aclosing(engine.generate(endless)) as events:
        async for event in events:
            if event.HasField("delta"):
                break
    async with asyncio.timeout(5):  # a second, on a machine that does nothing else
        while engine.load().running or engine.load().kv_cache_use:
            await asyncio.sleep(0.01)


async def test_json_schema_constrains_the_output(engine: VllmEngine) -> None:
    """The output of a tiny model parses and matches, because it cannot do otherwise."""
    schema = '{"type":"object","properties":{"age":{"type":"integer"}},"required":["age"],"additionalProperties":false}'
    outcome = await run(
        engine,
        chat_of(("user", "How old is Ava, who was born nine years ago? Answer as JSON.")),
        greedy(40),
        output_format=pb.OutputFormat(json_schema=schema),
    )
    assert '"age"' in outcome.text
    assert outcome.text.strip().endswith("}")


@pytest.mark.parametrize(
    ("output_format", "accepted"),
    [
        (pb.OutputFormat(choice=pb.Choice(options=["red", "green"])), {"red", "green"}),
        (pb.OutputFormat(regex="[0-9]{4}"), {f"{year:04}" for year in range(10_000)}),
        (pb.OutputFormat(grammar='root ::= "yes" | "no"'), {"yes", "no"}),
    ],
    ids=["choice", "regex", "grammar"],
)
async def test_every_kind_of_constraint_holds(
    engine: VllmEngine, output_format: pb.OutputFormat, accepted: set[str]
) -> None:
    """The whole output is one that the constraint allows."""
    assert (await run(engine, CAPITAL, output_format=output_format)).text in accepted


@pytest.mark.parametrize(
    "output_format",
    [
        pb.OutputFormat(json_schema='{"type": "objekt"}'),
        pb.OutputFormat(json_schema="{not json"),
        pb.OutputFormat(grammar="root ::= (("),
        pb.OutputFormat(regex="[unclosed"),
        pb.OutputFormat(choice=pb.Choice()),
    ],
    ids=["unknown type", "no JSON", "grammar", "regex", "no choices"],
)
async def test_a_constraint_that_the_backend_refuses_is_the_clients_fault(
    engine: VllmEngine, output_format: pb.OutputFormat
) -> None:
    """The refusal carries the backend's reason, and comes before anything is generated."""
    with pytest.raises(InvalidRequest) as caught:
        await run(engine, CAPITAL, output_format=output_format)
    assert caught.value.field.startswith("output_format")
    assert str(caught.value)


@pytest.mark.parametrize(
    ("schema", "begins"),
    [
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "minItems": 1}, "["),
        (
            {"type": "object", "properties": {"d": {"type": "string", "pattern": r"^(?!0)\d{3}$"}}, "required": ["d"]},
            "{",
        ),
    ],
    ids=["dropped keyword", "look-ahead"],
)
async def test_what_a_worker_served_before_changes_no_constraint(
    engine: VllmEngine, schema: dict[str, Any], begins: str
) -> None:
    """One backend for all: a schema that it takes partly is served, after whatever another would have taken."""
    with pytest.raises(InvalidRequest):
        await run(engine, CAPITAL, output_format=pb.OutputFormat(grammar="root ::= "))
    outcome = await run(engine, CAPITAL, greedy(12), output_format=pb.OutputFormat(json_schema=json.dumps(schema)))
    assert outcome.text.startswith(begins)


async def test_the_tokens_of_a_shortened_chat_are_checked(engine: VllmEngine) -> None:
    """Those before the chat come from the client."""
    turns = [("user", "word " * 2000), ("assistant", "yes"), ("user", "word " * 2000), ("user", "Well?")]
    with pytest.raises(InvalidRequest, match="not in the model's vocabulary"):
        await run(engine, chat_of(*turns), context_token_ids=[4_000_000], truncation=pb.TRUNCATION_DROP_OLDEST)


async def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(engine: VllmEngine) -> None:
    """The message says how long it is and how long it may be."""
    with pytest.raises(ContextTooLong, match=r"5001 tokens.*takes 4095"):
        await run(engine, ids_of(*(1,) * 5001))


async def test_an_overlong_chat_drops_its_oldest_turns_when_allowed(engine: VllmEngine) -> None:
    """System and last turn stay; without leave to drop, the chat is refused."""
    turns = [(("user", "assistant")[number % 2], f"Turn {number}: " + "word " * 100) for number in range(20)]
    chat = chat_of(("system", "You are brief."), *turns, ("user", "What is the capital of France?"))
    with pytest.raises(ContextTooLong):
        await run(engine, chat, max_context_tokens=600)
    outcome = await run(engine, chat, max_context_tokens=600, truncation=pb.TRUNCATION_DROP_OLDEST)
    assert outcome.started is not None
    text = await engine.detokenize(outcome.started.prompt_token_ids)
    assert "You are brief." in text
    assert "capital of France" in text
    assert "Turn 0:" not in text
    assert 0 < outcome.started.dropped_messages < 20
    assert len(outcome.started.prompt_token_ids) < 600


@pytest.mark.parametrize(
    ("request_", "capability"),
    [
        (request_for("def f():", suffix="return 1"), worker_pb2.CAPABILITY_INSERT),
        (request_for(chat_of(("user", "hi"), tools=[pb.Tool(name="f")])), worker_pb2.CAPABILITY_TOOLS),
        (request_for(chat_of(("user", "hi"), think=pb.THINK_LEVEL_HIGH)), worker_pb2.CAPABILITY_THINKING),
        (
            request_for(pb.Chat(messages=[pb.Message(role="user", images=[pb.Image(data=b"\x89PNG")])])),
            worker_pb2.CAPABILITY_VISION,
        ),
    ],
    ids=["insert", "tools", "thinking", "vision"],
)
async def test_a_missing_capability_is_named(
    engine: VllmEngine, request_: pb.GenerateRequest, capability: worker_pb2.Capability
) -> None:
    """SmolLM2 only completes and chats."""
    with pytest.raises(CapabilityMissing) as caught:
        await collect(engine.generate(request_))
    assert caught.value.capability == capability


async def test_embedding_needs_an_embedding_model(engine: VllmEngine) -> None:
    """A text model says so instead of making vectors up."""
    with pytest.raises(CapabilityMissing) as caught:
        await engine.embed(embedding_pb2.EmbedRequest(inputs=["hi"], request_id="e"))
    assert caught.value.capability == worker_pb2.CAPABILITY_EMBEDDING


@pytest.mark.parametrize("token_id", [49152, 2**31])
async def test_an_unknown_token_id_is_refused(engine: VllmEngine, token_id: int) -> None:
    """Both ways: as a prompt and to be turned into text."""
    with pytest.raises(InvalidRequest, match="vocabulary"):
        await run(engine, ids_of(1, token_id))
    with pytest.raises(InvalidRequest, match="vocabulary"):
        await engine.detokenize([token_id])


async def test_values_that_vllm_refuses_are_served_in_range(engine: VllmEngine) -> None:
    """Values that Ollama's clients send are never an error."""
    sampling = pb.Sampling(
        temperature=3.0, top_p=0.0, top_k=-5, min_p=2.0, repetition_penalty=0.0, presence_penalty=9.0, seed=-1,
        stop=("a b c", "d e f", "g h i", "j k l", "m n o"), max_tokens=4,
    )  # fmt: skip
    assert (await run(engine, STORY, sampling)).finished is not None


async def test_a_slow_reader_gets_larger_deltas(engine: VllmEngine) -> None:
    """The engine goes on while its output is not read; what it made meanwhile comes as one delta."""
    events = engine.generate(request_for(STORY, GREEDY))
    async with aclosing(events):
        outcome_head = [await anext(events), await anext(events)]
        async with asyncio.timeout(20):
            while engine.load().running:
                await asyncio.sleep(0.02)
        rest = [event async for event in events]
    deltas = [event.delta for event in rest if event.HasField("delta")]
    assert len(deltas) == 1
    assert outcome_head[1].HasField("delta")
    assert (
        outcome_head[1].delta.text + deltas[0].text == (await collect(engine.generate(request_for(STORY, GREEDY)))).text
    )


async def test_an_engine_without_sleep_mode_says_so_and_goes_on(engine: VllmEngine) -> None:
    """A CPU worker refuses to sleep and goes on serving."""
    assert not engine.describe().can_sleep
    with pytest.raises(CapabilityMissing, match="GPU"):
        await engine.sleep()
    assert (await run(engine, CAPITAL)).text == "The capital of France is Paris."
